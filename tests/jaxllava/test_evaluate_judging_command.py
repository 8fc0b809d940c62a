"""`jaxllava evaluate --judge` as a user gives it: against endpoints, with a served checkpoint, and by batch files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxllava.cli import main
from tests.fake_teacher import KEY, FakeTeacher, Reply, count, error
from tests.jaxllava import serving_server as server
from tests.jaxllava.judging_teacher import answer, data_in

pytest.importorskip("openai")
TASKS = ("llava_bench_wild", "msvd_qa", "scienceqa")


@pytest.fixture
def answered(tmp_path) -> Path:
    data = data_in(tmp_path / "data")
    for name in TASKS:
        answer(name, data, tmp_path / "out")
    return tmp_path


def argv(folder: Path, *more: str, tasks: str = ",".join(TASKS)) -> list[str]:
    return ["evaluate", "--tasks", tasks, "--data-root", str(folder / "data"), "--out", str(folder / "out"),
            "--judge", "judge-1", *more]  # fmt: skip


def review(body: dict[str, Any]) -> str:
    """What a judge says, by its instructions and by what it is asked."""
    system, asked = (one["content"] for one in body["messages"])
    if "checking the quality" in system:
        return "9 6\nThe first is better."
    if "multiple-choice" in system:
        return "The answer is B." if "Second answer" in asked else "The answer is A."
    return "{'pred': 'yes', 'score': 4}"


@pytest.fixture
def endpoint(monkeypatch):
    """An endpoint that fails every first try, each in another way."""
    ways = [
        error(429, "rate_limit_exceeded", retry_after="0"),
        error(500),
        Reply("cut", text="8 6"),
        Reply("malformed", text="8 6"),
    ]

    def rule(body: dict[str, Any], number: int) -> Reply | str:
        return ways[len(str(body)) % 4] if number == 0 else review(body)

    with FakeTeacher(rule) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield fake


def figures(folder: Path, judge: str = "judged-judge-1") -> dict[str, Any]:
    found = {
        path.parts[-3]: json.loads(path.read_text()) for path in folder.glob(f"out/*/{judge}/result.json")
    }
    return {name: result["figures"] for name, result in found.items()}


def kept_files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob("out/*/judged-judge-1/*")}


def test_an_endpoint_with_failures_gives_every_figure(answered, endpoint, capsys) -> None:
    main(argv(answered, "--judge-dry-run", "--price-in", "1", "--price-out", "2"))
    told = capsys.readouterr().out
    assert "0 of them kept" in told and "at these prices" in told and "nothing was asked" in told
    assert "scienceqa: on top of that, the judge is asked once more where it and the model differ" in told
    assert not endpoint.bodies
    main(argv(answered, "--in-flight", "8", "--price-in", "1000", "--price-out", "1000"))
    told = capsys.readouterr().out
    bill = re.search(
        r"(\d+) new answers: ([\d,]+) tokens of prompts and (\d+) of answers; about ([\d.]+) was spent", told
    )
    assert bill is not None
    answers, prompts, new, spent = (float(number.replace(",", "")) for number in bill.groups())
    assert answers == endpoint.answered.total() and prompts == sum(
        count(body) for body in {json.dumps(body): body for body in endpoint.bodies}.values()
    )
    assert spent >= (prompts + new) / 1000 - 0.01
    found = figures(answered)
    assert set(found) == set(TASKS)
    assert found["llava_bench_wild"]["all"]["mean"] == pytest.approx(100 * 6 / 9)
    assert found["msvd_qa"]["accuracy"]["mean"] == 100
    assert "judge judge-1" in told and KEY not in told
    assert endpoint.keys == {f"Bearer {KEY}"}
    asked, files = len(endpoint.bodies), kept_files(answered)
    main(argv(answered))
    assert "no new answer came" in capsys.readouterr().out
    assert len(endpoint.bodies) == asked and kept_files(answered) == files, "a repetition costs nothing"


def results_of(folder: Path) -> Path:
    """What a provider makes of the batch files in a folder."""
    lines = []
    for path in sorted(folder.glob("batch-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            choice = {"message": {"content": review(line["body"])}, "finish_reason": "stop"}
            response = {"status_code": 200, "body": {"choices": [choice]}}
            lines.append(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}))
    (folder / "results.jsonl").write_text("\n".join(lines))
    return folder / "results.jsonl"


def test_batches_round_by_round_give_the_same(answered, endpoint, capsys, monkeypatch) -> None:
    main(argv(answered, "--cache", str(answered / "live")))
    live = kept_files(answered)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    first, second = (["--judge-batch-out", str(answered / name)] for name in ("first", "second"))
    main(argv(answered, *first))
    assert "give the same command with --judge-batch-in" in capsys.readouterr().out
    read = [*first, "--judge-batch-in", str(results_of(answered / "first"))]
    main(argv(answered, *read, "--judge-dry-run"))
    assert " 0 without a result" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(argv(answered, *read))
    assert (
        "requests have no answer yet; give the same command without --judge-batch-in"
        in capsys.readouterr().err
    )
    main(argv(answered, *second))  # what follows from the answers: ScienceQA's second question
    lines = (answered / "second/batch-00001.jsonl").read_text().splitlines()
    assert lines and all("Second answer" in line for line in lines)
    main(argv(answered, *second, "--judge-batch-in", str(results_of(answered / "second"))))
    assert kept_files(answered) == live
    with pytest.raises(SystemExit):
        main(argv(answered, *read, "--judge", "another"))
    assert "none of these answers is to what this command asks" in capsys.readouterr().err
    endpoint.bodies.clear()
    main(argv(answered))
    assert not endpoint.bodies and kept_files(answered) == live


def test_a_judge_that_takes_no_temperature_but_its_own(answered, monkeypatch, capsys) -> None:
    """Everything sees the same requests: the estimate, batch files, the cache, what is asked again."""

    def rule(body: dict[str, Any], number: int) -> Reply | str:
        if "temperature" in body:
            return error(400, "unsupported_value", "Only the default (1)", param="temperature")
        return review(body)

    with FakeTeacher(rule) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        with pytest.raises(SystemExit):
            main(argv(answered))
        assert "--judge-temperature 1 leaves it to the model" in capsys.readouterr().err
        fake.bodies.clear()
        plain = ["--judge-temperature", "1", "--judge-max-tokens", "2000"]
        main(argv(answered, *plain))
        assert len(fake.bodies) > 12 and {body["max_tokens"] for body in fake.bodies} == {2000}
        assert any("Second answer" in str(body) for body in fake.bodies)
        told = capsys.readouterr().out
        assert "with --judge-temperature 1 --judge-max-tokens 2000 in place of the protocol's" in told
        result = json.loads((answered / "out/msvd_qa/judged-judge-1/result.json").read_text())
        assert (result["how"]["temperature"], result["how"]["max_tokens"]) == (1, 2000)
        main(argv(answered, *plain, "--judge-dry-run"))
        assert re.search(r"(\d+) requests, \1 of them kept", capsys.readouterr().out)
        main(argv(answered, *plain[:2], "--judge-batch-out", str(answered / "batch")))
        lines = (answered / "batch/batch-00001.jsonl").read_text().splitlines()
        assert lines and not any("temperature" in json.loads(line)["body"] for line in lines)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--judge-temperature", "3"], "--judge-temperature 3: a number from 0 to 2 is needed"),
        (["--judge-max-tokens", "0"], "--judge-max-tokens 0: a positive number is needed"),
        (["--judge-batch-in", "r.jsonl"], "--judge-batch-in needs --judge-batch-out DIR"),
        (["--judge-batch-out", "b", "--judge", "{data}"], "batch files are for a provider's model"),
        (["--judge-repeats", "0"], "--judge-repeats 0: a positive number is needed"),
        (["--judge-batch-out", "b", "--judge-batch-in", "gone.jsonl"], "holds no batch-"),
    ],
)
def test_mistakes_take_one_line(answered, more, says, capsys) -> None:
    more = [word.format(data=answered / "data") for word in more]
    with pytest.raises(SystemExit) as stop:
        main(argv(answered, *more, tasks="llava_bench_wild"))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_flags_of_judging_are_refused_where_nobody_judges(answered, capsys) -> None:
    for more in (
        ["--judge-batch-out", "b"],
        ["--judge-dry-run"],
        ["--judge-temperature", "1"],
        ["--judge-max-tokens", "9", "--judge-reviews", "r.jsonl"],
        ["--judge-swap", "--judge-reviews", "r.jsonl"],
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", "--tasks", "llava_bench_wild", "--data-root", str(answered / "data"), *more])
        assert f"{more[0]} is of --judge MODEL" in capsys.readouterr().err


@pytest.mark.usefixtures("compiled_quickly")
def test_a_served_checkpoint_as_judge(answered, tmp_path, monkeypatch, capsys) -> None:
    """Random weights write no grade: each is asked five times and counted as 0; what does not fit is named."""
    answer("mm_vet", answered / "data", answered / "out")
    engine = server.started(server.model_in(tmp_path / "model"))
    with server.served(engine) as found:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{found.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with pytest.raises(SystemExit) as stop:
            main(argv(answered, "--judge", server.NAME, tasks="mm_vet,msvd_qa"))
    assert stop.value.code == 1
    told = capsys.readouterr().out
    judged = f"judged-{server.NAME}/result.json"
    grades, videos = (
        json.loads((answered / "out" / name / judged).read_text()) for name in ("mm_vet", "msvd_qa")
    )
    assert grades["figures"]["total"]["mean"] == 0 and grades["scored"] == grades["asked"]
    assert engine.served == grades["reviews"]["came"] == 5 * grades["asked"] > 0
    assert grades["problems"]["no grade from 0 to 1, asked 5 times: counted as 0"]["count"] == grades["asked"]
    assert videos["reviews"]["why"] == {"too long for the model": 4} and not videos["figures"]
    assert "the judge failed (too long for the model: 4" in videos["failures"][0]
    assert "no judgement could be read; the judge failed (too long for the model: 4" in told
