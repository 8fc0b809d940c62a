"""Judging what `jaxllava evaluate --tasks` left: answers found, figures beside the papers', nothing lost or stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from input_pipeline.errors import UserError
from jaxllava.cli import main
from jaxllava.evaluate import benchmark_table, benchmarks
from jaxllava.evaluate.judging import JUDGES, command, kept, results
from jaxllava.evaluate.judging.protocol import Plan
from jaxllava.evaluate.tasks import TASKS, choose
from jaxllava.evaluate.tasks.task import Generate, read
from tests.jaxllava.judging_teacher import OF, RuleTeacher, answer, data_in, rule


@pytest.fixture
def data(tmp_path) -> Path:
    return data_in(tmp_path / "data")


def judged(names, data, out, teacher=None, plan=None) -> list[dict]:
    named = {name for name in names if name in TASKS}
    found, lacking = command.waiting(choose(names), data, out, 0, named)
    assert not lacking, lacking
    return command.judge(found, data, teacher or RuleTeacher(rule), plan or Plan(), out)


def test_every_judged_task_has_figures_beside_the_papers(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert set(JUDGES) >= {name for name, task in TASKS.items() if task.score is None}
    names = [name for name in JUDGES if TASKS[name].missing(data) == []]
    assert len(names) == 8
    for name in names:
        answer(name, data, out)
    found = judged(names, data, out)
    headlines = {r["task"]: next(iter(r["figures"].values()))["mean"] for r in found}
    assert headlines["llava_bench_wild"] == headlines["llava_bench_coco"] == 75
    assert (headlines["msvd_qa"], headlines["dense_captions"]) == (100, 7)
    assert headlines["mm_vet"] == pytest.approx(40)
    assert all(command.is_whole(r) and r["reviews"]["failed"] == 0 < r["reviews"]["came"] for r in found)
    command.show(found, out)
    text = capsys.readouterr().out
    table = text.partition("\n\nllava_bench_wild, judge")[0]
    line = next(one for one in table.splitlines() if one.startswith("msvd_qa"))
    assert "judged right, % ↑, judge rule-1" in line and "70.1" in line and "100.0 [100.0, 100.0]" in line
    assert "judged by rule-1, the papers' figures by gpt-4-0314: another judge is another measure" in table
    assert "needs a judge" not in table
    assert sum(line.startswith("scienceqa ") for line in table.splitlines()) == 2, (
        "its own figure and the judged one"
    )
    kept_totals = json.loads((out / "results.json").read_text())
    assert {r["task"] for r in kept_totals["results"] if "judge" in r} == set(names)
    assert (out / "results.txt").read_text().strip() in text


def test_judging_again_gives_the_same_files_and_another_judge_stands_beside(data, tmp_path, capsys):
    out = tmp_path / "out"
    answer("llava_bench_wild", data, out)
    judged(["llava_bench_wild"], data, out)
    folder = out / "llava_bench_wild" / "judged-rule-1"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["result.json", "reviews_1.jsonl", "summary_1.txt"]
    assert before["summary_1.txt"].decode().startswith("all 75.0 80.0 60.0\n")
    judged(["llava_bench_wild"], data, out, plan=Plan(repeats=2, swap=True))
    assert len(list(folder.iterdir())) == 7
    judged(["llava_bench_wild"], data, out)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = RuleTeacher(lambda request: "5 5", model="maker/judge 2")
    command.show(judged(["llava_bench_wild"], data, out, other), out)
    text = capsys.readouterr().out
    assert "judge rule-1" in text and "judge maker/judge 2" in text
    assert len({results.folder_name(name) for name in ("a/b", "a-b", "a b")}) == 3


def test_failures_and_unanswered_questions_are_counted_and_named(data, tmp_path):
    out = tmp_path / "out"
    left = answer("llava_bench_wild", data, out, skip=1)
    first = read(TASKS["llava_bench_wild"], data).items[0].id
    teacher = RuleTeacher(lambda r: None if r.key.split("/")[1] == first else rule(r))
    (found,) = judged(["llava_bench_wild"], data, out, teacher)
    assert (found["questions"], found["answered"], found["reviews"]["failed"]) == (4, 3, 1)
    assert found["not answered"] == {"not asked": {"count": 1, "first": [f"{left[0]}: not asked"]}}
    assert found["problems"]["the judge failed, left out: refused"] == {"count": 1, "first": [first]}
    assert not command.is_whole(found)
    text = benchmark_table.table([found], TASKS)
    assert (
        "1 not answered" in text
        and f"1 answer: the judge failed, left out: refused (question {first})" in text
    )
    (none,) = judged(["llava_bench_wild"], data, out, RuleTeacher(lambda request: None))
    why = "no figure: none of the reviews that came has two scores in its first line; the judge failed (refused: 3)"
    assert none["failures"] == [why] and not none["figures"]
    assert "–" in benchmark_table.table([none], TASKS)


def test_a_judge_that_stops_ends_the_run_in_one_line_and_what_was_judged_stays(data, tmp_path):
    out = tmp_path / "out"
    for name in ("mm_vet", "llava_bench_wild", "scienceqa"):
        answer(name, data, out)

    def stops(request):
        if request.key.startswith("scienceqa"):
            raise UserError("the cost limit of 1 is reached")
        return rule(request)

    with pytest.raises(UserError, match="cost limit of 1 is reached; reviews that came are kept"):
        judged(["mm_vet", "llava_bench_wild", "scienceqa"], data, out, RuleTeacher(stops))
    assert {r["task"] for r in results.results_in(out)} == {"llava_bench_wild"}


def test_a_judge_that_stops_before_any_review_promises_none(data, tmp_path):
    def stops(request):
        raise UserError("no key for 'rule-1': set OPENAI_API_KEY")

    answer("mm_vet", data, tmp_path / "out")
    with pytest.raises(UserError, match=r"set OPENAI_API_KEY$"):
        judged(["mm_vet"], data, tmp_path / "out", RuleTeacher(stops))


def test_judged_figures_go_when_there_are_more_answers(data, tmp_path):
    out = tmp_path / "out"
    answer("mm_vet", data, out)
    judged(["mm_vet"], data, out)
    assert len(results.results_in(out)) == 1
    assert [("judge" in r) for r in benchmarks.gathered([], out, OF | {"setting": "zero-shot"})] == [True]
    assert benchmarks.gathered([], out, OF | {"setting": "fine-tuned"}) == []
    results.forget(out / "mm_vet")
    assert results.results_in(out) == []
    (result,) = benchmarks.gathered([], out, OF | {"setting": "zero-shot"})
    assert result["no figures"].startswith("needs a judge")
    folder = out / "mm_vet/judged-x"
    folder.mkdir()
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"judged-x/result\.json cannot be read"):
        results.results_in(out)


def test_answers_that_are_not_there_or_to_other_questions_are_told(data, tmp_path):
    out = tmp_path / "out"
    answer("mm_vet", data, out)
    # Of a family only what has answers is meant; by its name a task has to have some, and a judge.
    found, lacking = command.waiting(choose(["llava"]), data, out, 0, {"llava"})
    assert list(found) == ["mm_vet"] and not lacking
    found, lacking = command.waiting(choose(["pope", "msvd_qa"]), data, out, 0, {"pope", "msvd_qa"})
    assert not found
    assert lacking[0].startswith("task msvd_qa: no answers in") and "pred.json" in lacking[0]
    assert lacking[1] == "task pope: no judge scores it; its figures come from a rule"
    found, lacking = command.waiting(choose(["mm_vet"]), None, out, 0, {"mm_vet"})
    assert not found and "set --data-root" in lacking[0]
    path = data / "mm-vet/mm-vet.json"
    path.write_text(path.read_text().replace("<AND>", "<OR>"))  # a truth: the questions are the same
    assert command.waiting(choose(["mm_vet"]), data, out, 0, {"mm_vet"})[0]
    path = data / "mm-vet/llava-mm-vet.jsonl"
    path.write_text(path.read_text().replace("What is x", "What is y"))
    _, lacking = command.waiting(choose(["mm_vet"]), data, out, 0, {"mm_vet"})
    assert "holds answers to other questions" in lacking[0]
    (out / "mm_vet/answers-0000.jsonl").write_text("{}\n")
    _, lacking = command.waiting(choose(["mm_vet"]), data, out, 0, {"mm_vet"})
    assert "holds answers to other questions" in lacking[0]


def test_prompts_that_are_missing_are_told_before_the_first_question(data, tmp_path):
    out = tmp_path / "out"
    for name in ("mm_vet", "llava_bench_wild"):
        answer(name, data, out)
    (data / TASKS["llava_bench_wild"].folder / "rule.json").unlink()
    teacher = RuleTeacher(rule)
    with pytest.raises(UserError, match=r"rule\.json"):
        judged(["mm_vet", "llava_bench_wild"], data, out, teacher)
    assert not teacher.asked


def test_llavas_own_answers_and_llama_vids_predictions_are_judged(data, tmp_path):
    out = tmp_path / "out"
    (out / "llava_bench_wild").mkdir(parents=True)
    lines = [
        {"question_id": n, "text": f"thing {n}", "answer_id": f"a{n}", "model_id": "llava-v1.5-13b"}
        for n in (2, 0, 1)
    ]
    path = out / "llava_bench_wild" / kept.LLAVA
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "no json\n")
    (found,) = judged(["llava_bench_wild"], data, out)
    assert (found["answered"], found["asked"], found["checkpoint"]) == (3, 4, "llava-v1.5-13b")
    assert any("a line that is no answer" in what for what in found["problems"])
    first = json.loads((out / "llava_bench_wild/judged-rule-1/reviews_1.jsonl").read_text().splitlines()[0])
    assert (first["answer1_id"], first["answer2_id"]) == ("id0", "a0")

    folder = out / "msvd_qa" / "pred"  # LLaMA-VID's chunks; no --data-root is needed
    folder.mkdir(parents=True)
    for chunk in range(2):
        line = {"id": "v_1", "question": "who?", "answer": "woman", "pred": f"a woman {chunk}"}
        (folder / f"2_{chunk}.json").write_text(json.dumps(line) + "\n")
    found, lacking = command.waiting(choose(["msvd_qa"]), None, out, 0, {"msvd_qa"})
    assert not lacking
    (result,) = command.judge(found, None, RuleTeacher(rule), Plan(), out)
    assert result["answered"] == 2 and result["figures"]["accuracy"]["mean"] == 100
    assert list(json.loads((out / "msvd_qa/judged-rule-1/reviews_1.json").read_text())) == ["v_1_0", "v_1_1"]
    drawn, _ = command.waiting(choose(["msvd_qa"]), None, out, 1, {"msvd_qa"})
    assert (len(drawn["msvd_qa"].rows), drawn["msvd_qa"].asked, drawn["msvd_qa"].questions) == (1, 1, 2)
    (folder / "2_0.json").write_text('{"id": 1}\n')
    (folder / "2_1.json").write_text('{"id": 1}\n')
    _, lacking = command.waiting(choose(["msvd_qa"]), None, out, 0, {"msvd_qa"})
    assert "no predictions of LLaMA-VID" in lacking[0]


def test_a_file_of_reviews_is_shown_beside_the_papers(tmp_path, capsys):
    path = tmp_path / "reviews.jsonl"
    pairs = [("llava_bench_conv", [8, 6]), ("llava_bench_detail", [9, 3]), ("llava_bench_conv", [-1, -1])]
    path.write_text(
        "".join(
            json.dumps({"category": c, "tuple": t, "question_id": n}) + "\n" for n, (c, t) in enumerate(pairs)
        )
    )
    assert main(["evaluate", "--tasks", "llava_bench_wild", "--judge-reviews", str(path)]) in (None, 0)
    text = capsys.readouterr().out
    assert "50.0 [" in text and "67.3" in text and "as reviews.jsonl has it" in text
    assert "1 answer: no two scores in the review's first line: counted as -1 -1 (question 2)" in text
    assert "llava_bench_wild: judged as reviews.jsonl has it, the papers' figures by gpt-4-0314" in text
    assert "llava_bench_wild: 3 of the benchmark's 60 questions have a review" in text
    again = tmp_path / "again.jsonl"
    again.write_text(path.read_text())
    main(["evaluate", "--tasks", "llava_bench_wild", "--judge-reviews", str(path), str(again)])
    assert "as reviews.jsonl and another file have it" in capsys.readouterr().out
    main(["evaluate", "--tasks", "llava_bench_wild", "--judge-reviews", str(path), "--judge-drop-unparsable"])
    assert "52.9 [" in capsys.readouterr().out
    for argv, said in (
        (["--tasks", "mm_vet"], "mm_vet has no form of reviews; llava_bench_wild"),
        (["--tasks", "llava"], "is of one task"),
        (["--tasks", "msvd_qa"], "no reviews of msvd_qa; they are one JSON object"),
        (
            ["--tasks", "llava_bench_wild", "--judge-reviews", "nope.jsonl"],
            "--judge-reviews nope.jsonl: cannot",
        ),
        (["--tasks", "llava_bench_wild", "--judge-repeats", "0"], "--judge-repeats is of --judge MODEL"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", "--judge-reviews", str(path), *argv])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--tasks", "mm_vet", "--judge-swap"])
    assert "--judge-swap is of --judge MODEL" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--tasks", "mm_vet", "--max-cost", "5"])
    assert "--max-cost is of --judge MODEL" in capsys.readouterr().err
    assert all(isinstance(TASKS[name].protocol, Generate) for name in JUDGES)


def _llava_answers(data, tmp_path, *lines) -> kept.Kept:
    path = tmp_path / "out/llava_bench_wild" / kept.LLAVA
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    task = TASKS["llava_bench_wild"]
    return kept.read(task, read(task, data), tmp_path / "out")


def test_a_single_line_of_llavas_answers_is_one(data, tmp_path):
    found = _llava_answers(data, tmp_path, {"question_id": 1, "text": "A cat.", "metadata": {"a": 1}})
    assert [(row.id, row.answer) for row in found.rows] == [("1", "A cat.")] and found.problems == {}


def test_damaged_lines_of_llavas_answers_cost_no_other(data, tmp_path):
    lines = (
        "[" * 3000,
        {"question_id": [1], "text": "B"},
        {"question_id": 2, "text": "a\ud800", "model_id": "a\nb"},
    )
    found = _llava_answers(data, tmp_path, *lines)
    assert [(row.id, row.answer) for row in found.rows] == [("2", "a?")]
    assert sum(map(len, found.problems.values())) == 2 and found.of == {"checkpoint": "a b"}


def test_a_file_with_a_mark_and_a_broken_byte_keeps_its_sound_lines(tmp_path):
    line = {"id": "a", "question": "Q", "answer": "A", "pred": "P"}
    path = tmp_path / "pred.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line).encode() + b'\n{"id": "\xff"}\n')
    found = kept.read_predictions(path)
    assert [row.id for row in found.rows] == ["a"] and len(found.problems) == 1


def test_predictions_of_one_id_never_take_anothers(tmp_path):
    path = tmp_path / "pred.json"
    line = {"question": "Q", "answer": "A", "pred": "P"}
    path.write_text("".join(json.dumps({"id": id, **line}) + "\n" for id in ("a", "a", "a_1", None)))
    found = kept.read_predictions(path)
    assert [row.id for row in found.rows] == ["a", "a_1", "a_1_1"]
    assert sum(map(len, found.problems.values())) == 1


def test_an_answer_of_ours_that_is_no_text_is_not_judged(data, tmp_path):
    out = tmp_path / "out"
    answer("llava_bench_wild", data, out)
    path = out / "llava_bench_wild/answers-0000.jsonl"
    head, first, *rest = path.read_text().splitlines()
    lines = [
        head,
        json.dumps({**json.loads(first), "answer": 7}),
        '{"id": [1], "answer": "x"}',
        "[" * 3000,
        *rest,
    ]
    path.write_text("\n".join(lines) + "\n")
    found = kept.read(TASKS["llava_bench_wild"], read(TASKS["llava_bench_wild"], data), out)
    assert list(found.unanswered) == ["an answer that is no text"] and len(found.rows) == len(rest)
    path.write_text("[" * 3000 + "\n")
    with pytest.raises(UserError, match="line 1 does not say of what"):
        kept.read(TASKS["llava_bench_wild"], read(TASKS["llava_bench_wild"], data), out)


@pytest.mark.parametrize(
    "change",
    [
        {"task": ["llava_bench_wild"]}, {"figures": []}, {"figures": {"all": {"mean": 1}}}, {"problems": {"a": 1}},
        {"not answered": {"a": {"count": 1, "first": []}}}, {"asked": "3"}, {"failures": "none"},
        {"how": {"temperature": "1"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["judged-rule-1/result.json", "result.json"])
def test_a_damaged_result_is_said_in_one_line(data, tmp_path, name, change):
    out = tmp_path / "out"
    answer("llava_bench_wild", data, out)
    judged(["llava_bench_wild"], data, out)
    path = out / "llava_bench_wild" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if "how" in change and "judged" not in name:
        return  # tables take that of judged results alone
    with pytest.raises(UserError, match=r"result\.json cannot be read") as error:
        benchmark_table.table(benchmarks.gathered([], out, like={**OF, "setting": "zero-shot"}), TASKS)
    assert "\n" not in str(error.value)
    path.write_bytes(b"\xff" * 9000)
    with pytest.raises(UserError) as error:
        benchmarks.gathered([], out, like={**OF, "setting": "zero-shot"})
    assert len(str(error.value)) < 600
