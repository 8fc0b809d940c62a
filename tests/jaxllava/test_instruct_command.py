"""`jaxllava prepare instruct` and `prepare captions` as a user meets them, with a teacher that answers by a rule."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from input_pipeline import records
from input_pipeline.errors import UserError
from input_pipeline.instruct import books, parse
from input_pipeline.instruct.parse import Pair
from input_pipeline.sources import llava_json
from input_pipeline.types import Record, Turn
from jaxllava import cli
from jaxllava.captions_command import captions
from jaxllava.instruct_command import instruct
from jaxllava.teacher.messages import Answer, Failure, Request
from jaxllava.teacher.settings import Settings

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "llava"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")


def rule(request: Request) -> tuple[str, str]:
    """An answer made of what is asked: (text, finish)."""
    first, *rest = request.messages[-1].text.split("\n")
    number = sum(map(ord, request.messages[-1].text)) % 7
    if number == 0:
        return "I'm sorry, but I cannot help with that.", "stop"
    if number == 1:
        return parse.write([Pair("What does the caption say?", f"The caption says: {first}")] * 2), "stop"
    told = (
        f"This picture can be told like this: {first.rstrip('.')}. One may look at it for a while, since there is more "
        "to see in it than this, and much of what is there belongs together in one way or another."
    )
    if request.key.endswith("/detail"):
        return told, "length" if number == 2 else "stop"
    pairs = [Pair("What is shown here?", told), Pair("Is there more to it?", f"Yes: {(rest or [first])[0]}")]
    return parse.write(pairs[:1] if request.key.endswith(("/complex", "_reasons")) else pairs), "stop"


TEXT = "It is shown in the middle of the picture, and one may look at it for a while from here or from over there."
GOOD = {
    "conversation": parse.write(
        [Pair("What is shown here?", TEXT), Pair("Where is it?", "In the middle of it.")]
    ),
    "detail": f"{TEXT} There is nothing else beside it, and the light comes from the left side.",
    "complex": parse.write([Pair("Why is it there?", TEXT)]),
}


class Ruled:
    """A teacher that keeps its answers in a folder, a file for each. fails: every so many-th request has no answer;
    dies: the process is killed after so many new answers.
    """

    model = "m"
    spent = 0.0

    def __init__(self, settings: Settings, asked: Counter[str], fails: int = 0, dies: int = 0) -> None:
        self.settings, self.asked, self.fails, self.dies = settings, asked, fails, dies
        assert settings.cache is not None
        settings.cache.mkdir(parents=True, exist_ok=True)

    def ask(self, requests):
        new, held = 0, []
        for number, request in enumerate(requests, 1):
            if self.fails and number % self.fails == 0:
                yield Failure(request.key, "HTTP 500", "try later")
                continue
            path = self.settings.cache / request.identity(self.model)
            kept = path.exists()
            if not kept:
                self.asked[request.key] += 1
                path.with_suffix(".partial").write_text(json.dumps(rule(request)))
                path.with_suffix(".partial").rename(path)
                new += 1
                if new == self.dies:
                    os.kill(os.getpid(), signal.SIGKILL)
            text, finish = json.loads(path.read_text())
            held.append(Answer(request.key, text, finish, kept=kept))
            if len(held) == 5:  # not in the order in which they were asked
                yield from reversed(held)
                held = []
        yield from reversed(held)


def ruled(asked: Counter[str] | None = None, **how: int) -> Callable[[Settings], Ruled]:
    counted = Counter() if asked is None else asked
    return lambda settings: Ruled(settings, counted, **how)


@pytest.fixture
def pictures(tmp_path, request) -> Path:
    """Sixty pictures in words, one of them without anything, another without a file."""
    from tests.conftest import png

    (tmp_path / "images").mkdir()
    rows = []
    things = ("cup", "dog", "boat", "tree", "house", "chair")
    for number in range(60):
        thing = things[number % 6]
        box = {"category": thing, "bbox": [0.1, 0.2, 0.3 + number / 100, 0.9]}
        captions = [
            f"A {thing} is seen in picture {number}.",
            f"There is a {thing} here, and nothing beside it.",
        ]
        rows.append({"id": f"p{number}", "image": f"p{number}.png", "captions": captions, "instances": [box]})
        if number != 8:
            (tmp_path / "images" / f"p{number}.png").write_bytes(png(number, 8))
    rows[7] |= {"captions": [], "instances": []}
    (tmp_path / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def flags(folder: Path, out: str = "out", *more: str) -> list[str]:
    return ["--jsonl", str(folder / "pictures.jsonl"), "--images", str(folder / "images"), "--teacher", "m",
            "--out", str(folder / out), *more]  # fmt: skip


def rows(out: Path) -> list[dict]:
    """Of rejected.jsonl."""
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_from_pictures_to_records(pictures, capsys) -> None:
    asked: Counter[str] = Counter()
    instruct(flags(pictures), ruled(asked))
    told = capsys.readouterr().out
    out = pictures / "out"
    summary = json.loads((out / "summary.json").read_text())
    total = sum(summary["asked"].values())
    assert told.startswith(f"{total} requests, 0 of them kept; to ask: about ")
    assert set(asked.values()) == {1}
    assert asked.total() == total
    assert summary["not_used"] == {"neither captions nor boxes": 1, "media is gone": 1}
    assert "neither captions nor boxes: 1 (p7)" in told
    assert "media is gone: 1 (p8)" in told
    assert {json.loads(line)["id"] for line in (out / "quarantine.jsonl").read_text().splitlines()} == {
        "p7",
        "p8",
    }

    # Every request is a sample or was rejected with its reason.
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert total == sum(summary["taken"].values()) + len(rejected)
    assert Counter(row["reason"] for row in rejected) == summary["rejected"]
    assert set(summary["rejected"]) == {
        "refused", "the same question twice", "too many questions", "blocks where plain text is wanted",
        "cut: the answer was longer than the tokens allowed", "speaks of what it was told as of a text",
    } & set(summary["rejected"])  # fmt: skip
    assert {"refused", "cut: the answer was longer than the tokens allowed"} <= set(summary["rejected"])
    assert all(row["text"] for row in rejected)

    # The files are LLaVA's, and our reader takes all of them.
    for kind, name in summary["files"].items():
        found = list(llava_json.read(out / name, pictures / "images"))
        assert all(isinstance(sample, llava_json.Sample) for sample in found)
        count = sum(summary["mixture"].values()) if kind == "mixture" else summary["taken"][kind]
        assert len(found) == count
        assert name == f"{'instruct' if kind == 'mixture' else kind}_{count}.json"
    mixed = json.loads((out / summary["files"]["mixture"]).read_text())
    places = Counter(row["conversations"][0]["value"].startswith("<image>\n") for row in mixed)
    assert min(places[True], places[False]) > 5

    # The mixture has the ratio, and the records are the mixture.
    most = min(summary["taken"][kind] / part for kind, part in summary["recipe"]["ratio"].items())
    assert summary["mixture"] == {
        kind: int(most * part + 1e-6) for kind, part in summary["recipe"]["ratio"].items()
    }
    both = [record for split in summary["splits"] for record in records.open_split(out, split)]
    assert Counter(
        json.dumps([[t.role, t.text] for t in record.conversations]) for record in both
    ) == Counter(
        json.dumps([[turn["from"], turn["value"]] for turn in row["conversations"]]) for row in mixed
    )
    # Of each kind the lowest draws.
    for kind, count in summary["mixture"].items():
        keys = [f"{row['id']}/{kind}" for row in json.loads((out / summary["files"][kind]).read_text())]
        ours = {record.meta["origin"] for record in both if record.meta["kind"] == kind}
        assert ours == set(sorted(keys, key=lambda key: books.rank(0, key))[:count])
    assert set(summary["splits"]) == {"instruct_train", "instruct_heldout"}
    for record in both:
        assert record.task == "instruct"
        assert record.images == ((pictures / "images" / f"{record.id}.png").read_bytes(),)
    train, heldout = (
        {record.id for record in records.open_split(out, split)}
        for split in ("instruct_train", "instruct_heldout")
    )
    assert not train & heldout

    # A file that was missing may be there now; then nothing is asked again but what is new.
    instruct(flags(pictures), ruled(asked))
    assert "up to date" not in capsys.readouterr().out
    assert set(asked.values()) == {1}


def test_what_is_asked(pictures) -> None:
    seen: dict[str, Request] = {}

    class Threaded(Ruled):
        """Takes its requests in a thread of its own, as one that asks over the network may."""

        def ask(self, requests):
            with ThreadPoolExecutor(1) as thread:
                requests = thread.submit(list, requests).result()
            seen.update((request.key, request) for request in requests)
            return super().ask(requests)

    instruct(flags(pictures), lambda settings: Threaded(settings, Counter()))
    for key, request in seen.items():
        kind = key.rpartition("/")[2]
        roles = [message.role for message in request.messages]
        assert roles == ["system", *["user", "assistant"] * 2, "user"]
        lines = request.messages[-1].text.split("\n")
        assert len(lines) == (2 if kind == "conversation" else 4)
        if kind != "conversation":
            assert lines[2] == ""
            assert lines[3].split(": ")[1].startswith("[0.1, 0.2, 0.")


def test_killed_at_any_moment_it_ends_as_if_undisturbed(pictures) -> None:
    instruct(flags(pictures, "whole"), ruled())
    asked: Counter[str] = Counter()
    for dies in (1, 17):
        code = (
            "from tests.jaxllava.test_instruct_command import *\n"
            f"instruct({flags(pictures)!r}, ruled(dies={dies}))"
        )
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not (pictures / "out").exists()
    assert len(list((pictures / "out.answers").iterdir())) == 18
    instruct(flags(pictures), ruled(asked))
    assert asked.total() == len(list((pictures / "whole.answers").iterdir())) - 18
    assert files(pictures / "out") == files(pictures / "whole")
    assert not (pictures / ".out.partial").exists()


def test_more_pictures_leave_the_others_as_they_were(pictures) -> None:
    instruct(flags(pictures, "before"), ruled())
    rows = [json.loads(line) for line in (pictures / "pictures.jsonl").read_text().splitlines()]
    for row in rows[:20]:
        shutil.copy(pictures / "images" / "p1.png", pictures / "images" / f"more{row['image']}")
        rows.append(
            {**row, "id": f"more{row['id']}", "image": f"more{row['image']}", "captions": ["Another one."]}
        )
    (pictures / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked: Counter[str] = Counter()
    shutil.copytree(pictures / "before.answers", pictures / "after.answers")
    instruct(flags(pictures, "after"), ruled(asked))
    assert asked
    assert all(key.startswith("more") for key in asked)

    def told(name: str) -> dict[tuple[str, str], str]:
        summary = json.loads((pictures / name / "summary.json").read_text())
        return {
            (row["id"], kind): json.dumps(row)
            for kind, file in summary["files"].items()
            if kind != "mixture"
            for row in json.loads((pictures / name / file).read_text())
        }

    before, after = told("before"), told("after")
    assert before.items() <= after.items()


def test_failures_stop_it_and_are_asked_again(pictures, capsys) -> None:
    asked: Counter[str] = Counter()
    with pytest.raises(
        UserError, match=r"requests have no answer \(HTTP 500: \d+, such as try later\); nothing was written"
    ):
        instruct(flags(pictures), ruled(asked, fails=10))
    assert not (pictures / "out").exists()
    assert "new answers: " in capsys.readouterr().out, "what it has cost is told all the same"
    instruct(flags(pictures), ruled(asked))
    assert set(asked.values()) == {1}
    instruct(flags(pictures, "some", "--max-failed-fraction", "0.2"), ruled(fails=10))
    rejected = [json.loads(line) for line in (pictures / "some/rejected.jsonl").read_text().splitlines()]
    assert {row["detail"] for row in rejected if row["reason"] == "no answer: HTTP 500"} == {"try later"}
    instruct(flags(pictures, "some", "--max-failed-fraction", "0.2"), ruled())
    whole, some = (json.loads((pictures / name / "summary.json").read_text()) for name in ("out", "some"))
    assert whole["taken"] == some["taken"]


def test_what_is_not_taken_is_asked_again(pictures, capsys) -> None:
    """With other draws, until one is taken: the first good answer counts, those before it are told."""
    asked: Counter[str] = Counter()

    class Learns(Ruled):
        """Every second request is answered badly at first, every fourth twice."""

        def ask(self, requests):
            for request in requests:
                asked[request.key] += 1
                assert request.draw == asked[request.key] - 1
                number = sum(map(ord, request.messages[-1].text)) % 4
                text = GOOD[request.key.rpartition("/")[2]]
                bad = request.draw < {1: 1, 3: 2}.get(number, 0)
                yield Answer(request.key, "I'm sorry, but I cannot help with that." if bad else text)

    more = ["--tries", "3", "--temperature", "0.7"]
    instruct(flags(pictures, "out", *more), lambda settings: Learns(settings, Counter()))
    assert "up to 3 times as much where answers are not taken" in capsys.readouterr().out
    summary = json.loads((pictures / "out/summary.json").read_text())
    assert summary["taken"] == summary["asked"] and set(asked.values()) == {1, 2, 3}
    rejected = rows(pictures / "out")
    assert Counter(row["key"] for row in rejected) == {key: n - 1 for key, n in asked.items() if n > 1}
    assert {row["draw"] for row in rejected} == {0, 1}
    asked.clear()
    more[1] = "2"
    instruct(flags(pictures, "two", *more), lambda settings: Learns(settings, Counter()))
    summary = json.loads((pictures / "two/summary.json").read_text())
    left = sum(summary["asked"].values()) - sum(summary["taken"].values())
    twice = [
        key for key, count in Counter(row["key"] for row in rows(pictures / "two")).items() if count == 2
    ]
    assert 0 < left == len(twice)


def test_questions_of_ones_own(pictures) -> None:
    folder = pictures / "prompts/detail_description"
    folder.mkdir(parents=True)
    (folder / "system_message.txt").write_text("Describe it.")
    (folder / "questions.txt").write_text("What do you see?\n\nAnd in full?\n")
    instruct(flags(pictures, "out", "--kinds", "detail", "--prompts", str(folder.parent)), ruled())
    (name,) = (pictures / "out").glob("detail_*.json")
    asked = {
        row["conversations"][0]["value"].replace("<image>", "").strip()
        for row in json.loads(name.read_text())
    }
    assert asked == {"What do you see?", "And in full?"}


def test_a_refusal_is_an_answer_that_is_not_taken(pictures) -> None:
    class Refuses(Ruled):
        def ask(self, requests):
            for number, said in enumerate(super().ask(requests)):
                final = Failure(said.key, "refused", "not this one", is_final=True, is_paid=True)
                yield final if number == 4 else said

    instruct(flags(pictures), lambda settings: Refuses(settings, Counter()))
    rejected = [json.loads(line) for line in (pictures / "out/rejected.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rejected if row.get("detail") == "not this one"] == ["refused"]
    assert json.loads((pictures / "out/summary.json").read_text())["failed"] == 0


def test_batch_files_and_dry_run(pictures, capsys, monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    by_name: dict[str, tuple[str, str]] = {}

    class Noted(Ruled):
        def ask(self, requests):
            for request in requests:
                by_name[request.identity(self.model)] = rule(request)
                yield from super().ask([request])

    instruct(flags(pictures, "direct"), lambda settings: Noted(settings, Counter()))
    instruct(flags(pictures, "out", "--dry-run"))
    assert f"{len(by_name)} requests, 0 of them kept" in (said := capsys.readouterr().out)
    assert "nothing was asked" in said
    batch = ["--batch-out", str(pictures / "batch")]
    instruct(flags(pictures, "out", *batch))
    assert "--batch-in FILES" in capsys.readouterr().out
    assert not (pictures / "out").exists()
    lines = (pictures / "batch/batch-00001.jsonl").read_text().splitlines()
    results = []
    for name in [json.loads(line)["custom_id"] for line in lines]:  # as the provider answers
        text, finish = by_name[name]
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        response = {"status_code": 200, "body": {"choices": [choice]}}
        results.append(json.dumps({"custom_id": name, "response": response, "error": None}))
    half = len(results) // 2
    (pictures / "one.jsonl").write_text("\n".join(results[:half]))
    (pictures / "two.jsonl").write_text("\n".join(results[half:]))
    read = [*batch, "--batch-in", str(pictures / "one.jsonl")]
    lack = rf"{len(results) - half} of {len(results)} requests have no answer .*give it without --batch-in"
    with pytest.raises(UserError, match=lack):
        instruct(flags(pictures, "out", *read))
    assert (
        f"{half} answers and 0 refusals read; {len(results) - half} without a result"
        in capsys.readouterr().out
    )
    instruct(flags(pictures, "out", *read, str(pictures / "two.jsonl")))
    assert files(pictures / "out") == files(pictures / "direct")


def test_one_command_at_a_time_and_other_folders_stay(pictures) -> None:
    (pictures / "full").mkdir()
    (pictures / "full/mine.txt").write_text("x")
    with pytest.raises(UserError, match="was not written by prepare instruct"):
        instruct(flags(pictures, "full"), ruled())
    shutil.copy(pictures / "images/p1.png", pictures / "images/p8.png")
    instruct(flags(pictures), ruled())
    with pytest.raises(UserError, match="other input or flags"):
        instruct(flags(pictures, "out", "--seed", "1"), ruled())
    before = files(pictures / "out")
    instruct(flags(pictures), lambda settings: pytest.fail("asked again"))
    assert files(pictures / "out") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kind", "detail"], "'--kind' is not known. Did you mean '--kinds'?"),
        (["--kinds", "detial"], "--kinds: there is no 'detial'. Did you mean 'detail'?"),
        (["--kinds", "detail,detail"], "named twice"),
        (["--ratio", "1:2"], "a number for each of conversation, detail, complex"),
        (["--ratio", "0:0:0"], "at least one kind"),
        (["--ratio", "1:-2:1"], "-2 for detail"),
        (["--share", "2"], "--share 2: a share"),
        (["--jsonl", "/nowhere.jsonl"], "/nowhere.jsonl: no such file"),
        (["--jsonl", "PICTURES", "PICTURES"], "p1.png: is named twice"),
        (["--images", "/nowhere"], "--images /nowhere: no such folder"),
        (["--prompts", "/nowhere"], "--prompts /nowhere: no such folder"),
        (["--posts", "/nowhere"], "and not both"),
        (["--languages", "English"], "--languages: 'English'"),
        (["--batch-in", "/nowhere"], "--batch-in needs --batch-out"),
        (["--most-boxes", "0"], "--most-boxes 0"),
        (["--temperature", "3"], "--temperature 3: a number from 0 to 2"),
        (["--tries", "0"], "--tries 0: at least 1"),
        (["--teacher", "./nowhere", "--dry-run"], "./nowhere: no such folder"),
        (["--tries", "2"], "--tries 2 needs a --temperature"),
        (["--scenes", "/nowhere"], "--scenes goes with --posts"),
        (["--split", "behavior_train"], "--split goes with --posts"),
        (["--out", "."], "--out .: give a folder of its own"),
        (["--images", "gs://bucket/x"], "is in a bucket"),
        (["--coco", "PICTURES"], "nothing to ask|records are bad"),
    ],
)
def test_mistakes_are_told_in_a_line(pictures, more, message) -> None:
    import re

    more = [word.replace("PICTURES", str(pictures / "images/p1.png")) for word in more]
    expected = message if "|" in message else re.escape(message)
    base = flags(pictures) if more[0] != "--coco" else ["--out", str(pictures / "out"), "--teacher", "m"]
    with pytest.raises(UserError, match=expected) as error:
        instruct([*base, *more], ruled())
    assert "\n" not in str(error.value)
    assert not (pictures / "out").exists()


def test_the_words_of_the_command_line(capsys) -> None:
    for argv, message in (
        (["prepare", "instrct", "--out", "x"], "jaxllava prepare: 'instrct' is not known. Did you mean 'instruct'?"),
        (["prepare", "captions", "--out", "x", "--jsn", "y", "--json", "z"], "'--jsn' is not known. Did you mean"),
        (["prepare", "captions", "--out", "x", "--json", "z", "--most", "5"], "--least and --most go with --balance"),
        (["prepare", "captions", "--out", "x"], "required: --json"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_whatever_a_teacher_says_is_booked(pictures) -> None:
    class Odd(Ruled):
        def ask(self, requests):
            for number, said in enumerate(super().ask(requests)):
                assert isinstance(said, Answer)
                if number == 3:
                    continue  # never answered
                yield replace(said, text="\ud800\x00" if number == 5 else said.text)
                yield said if number == 6 else replace(said, key="of nobody")

    odd = lambda settings: Odd(settings, Counter())
    with pytest.raises(UserError, match=r"^1 of \d+ requests have no answer \(nothing was said\)"):
        instruct(flags(pictures), odd)
    instruct(flags(pictures, "out", "--max-failed-fraction", "0.1"), odd)
    rejected = [json.loads(line) for line in (pictures / "out/rejected.jsonl").read_text().splitlines()]
    assert "no answer: nothing was said" in {row["reason"] for row in rejected}
    assert "?\x00" in {row["text"] for row in rejected}


def test_posts_and_their_audience(tmp_path, capsys) -> None:
    def post(name: str) -> Record:
        meta = {
            "post_id": name,
            "source": "reddit",
            "title": f"My dog {name}",
            "like_rate": 0.9,
            "comments": ["Good dog!"],
        }
        return Record(
            name, "behavior", (name.encode(),), (Turn("human", "<image>\n?"), Turn("gpt", "!")), meta
        )

    data = tmp_path / "data"
    records.write(
        {"behavior_train": [post(f"a{n}") for n in range(30)], "behavior_heldout": [post("b1"), post("b2")]},
        data,
    )
    argv = ["--posts", str(data), "--teacher", "m", "--out", str(tmp_path / "out")]
    instruct(argv, ruled())
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["files"] == {}
    assert set(summary["mixture"]) == {"audience_conversation", "audience_reasons"}
    assert summary["splits"]["instruct_train"] > 10
    found = records.open_split(tmp_path / "out", "instruct_train")[0]
    assert found.images == (found.meta["post_id"].encode(),)
    assert "<image>" in found.conversations[0].text

    # The number in 'My dog a3' is no number of its own; one that nobody told is not taken.
    class Invents(Ruled):
        def ask(self, requests):
            for said in super().ask(requests):
                assert isinstance(said, Answer)
                yield replace(said, text=said.text.replace("for a while", "for 77 seconds"))

    with pytest.raises(SystemExit) as stop:  # nothing was taken
        instruct([*argv[:-1], str(tmp_path / "two")], lambda settings: Invents(settings, Counter()))
    assert stop.value.code == 1
    summary = json.loads((tmp_path / "two/summary.json").read_text())
    assert summary["rejected"]["a number that is not known of it"] > 10
    assert not summary["mixture"]


def test_captions(pictures, capsys) -> None:
    rows = [{"image": f"p{n}.png", "caption": f"a {'red' if n % 2 else 'blue'} cup"} for n in range(50)]
    rows += [
        {"image": "p51.png", "caption": "a lonely zebra"},
        {"image": "gone.png", "caption": "a blue cup"},
    ]
    rows += [{"image": "p3.png", "captions": ["a red cup", " "]}, {"id": "x", "image": "p4.png", "conversations": [
        {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a blue cup"}]}]  # fmt: skip
    (pictures / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ["--json", str(pictures / "captions.jsonl"), "--images", str(pictures / "images"), "--out"]
    captions([*argv, str(pictures / "all")])
    summary = json.loads((pictures / "all/summary.json").read_text())
    assert (summary["captions"], summary["written"]) == (54, 52)  # without p8's and gone.png's files
    assert summary["not_used"] == {"media is gone": 2, "a caption without text": 1}
    assert sum(summary["splits"].values()) == 52
    found = json.loads((pictures / "all/captions.json").read_text())
    assert len({row["conversations"][0]["value"].replace("<image>", "").strip() for row in found}) > 8
    assert all(
        isinstance(one, llava_json.Sample)
        for one in llava_json.read(pictures / "all/captions.json", pictures / "images")
    )
    record = records.open_split(pictures / "all", "caption_train")[0]
    assert (record.task, len(record.images)) == ("caption", 1)

    pytest.importorskip("textblob")
    captions([*argv, str(pictures / "some"), "--balance", "--most", "10"])
    summary = json.loads((pictures / "some/summary.json").read_text())
    assert summary["concepts"] == {"captions": 54, "chosen": 20, "phrases": 3, "too_rare": 1, "too_common": 2}
    assert "by their noun phrases 20 were chosen" in capsys.readouterr().out
    texts = Counter(
        row["conversations"][1]["value"] for row in json.loads((pictures / "some/captions.json").read_text())
    )
    assert set(texts) == {"a red cup", "a blue cup"}


@needs_real
def test_the_release_with_its_own_prompts(tmp_path) -> None:
    argv = [
        "--jsonl",
        str(REAL / "caps_boxes_coco2014_val.jsonl"),
        "--teacher",
        "m",
        "--out",
        str(tmp_path / "out"),
    ]
    instruct([*argv, "--prompts", str(REAL / "prompts"), "--kinds", "conversation,detail"], ruled())
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["pictures"] == 40
    assert summary["asked"]["conversation"] == 40
    assert summary["taken"]["conversation"] > 10
    assert summary["splits"] == {}
    with pytest.raises(UserError, match="no folder 'complex_reasoning'"):
        instruct([*argv[:-1], str(tmp_path / "two"), "--prompts", str(REAL / "prompts")], ruled())
