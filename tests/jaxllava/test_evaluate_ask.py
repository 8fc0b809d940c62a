"""Questions put to a real (tiny, random) model: answers on disk, resumed, in full batches, nothing lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from input_pipeline.video import ENDS_EARLY
from jaxllava import api, generate
from jaxllava.evaluate import benchmarks, stories
from jaxllava.evaluate.answers import Answers
from jaxllava.evaluate.ask import Asking, ask, turns
from jaxllava.evaluate.benchmarks import Plan
from jaxllava.evaluate.media import locate
from jaxllava.evaluate.metrics import accuracy
from jaxllava.evaluate.scoring.answered import Scored
from jaxllava.evaluate.tasks.task import Choose, Expect, Generate, Item, Rank, Task, need_ends, read
from tests.conftest import png
from tests.input_pipeline.test_video import film

pytestmark = pytest.mark.usefixtures("compiled_quickly")
IDENTITY = {"checkpoint": "a", "questions": "b"}
WORDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def model(tiny_base):
    return api.load(tiny_base)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def score(rows):
    right = [row.answer == row.truth for row in rows]
    return Scored({"accuracy": accuracy(right)}, {})


def load(folder, split):
    for number, line in enumerate((folder / "questions.jsonl").read_text().splitlines()):
        row = json.loads(line)
        yield Item(row["id"], row["text"], (folder / row["image"],), WORDS[number % 3])


def task(**changes) -> Task:
    base = Task(
        name="toy", family="toys", title="Toy", metric="top-1, %", folder="toy", needs={"test": ("questions.jsonl",)},
        get="Make it.", load=load, protocol=Choose(WORDS), score=score, tested="fixture",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def items(folder: Path, count: int = 10) -> list[Item]:
    words = ["What colour is this", "And what is this then in a few words", "Red or blue"]
    return [
        Item(f"q{i}", words[i % 3], (folder / f"{i}.png",), WORDS[i % 3], meta={"row": i})
        for i in range(count)
    ]


def answers(folder: Path, host: int = 0, **changes) -> Answers:
    return Answers(folder, IDENTITY | changes, host)


def test_choices_are_those_of_the_model(model, pictures, tmp_path):
    found = answers(tmp_path)
    ask(task(), model, items(pictures), found, Asking(batch_size=4))
    direct = model.score([i.prompt for i in items(pictures)], [i.media[0] for i in items(pictures)], WORDS)
    for item, expected in zip(items(pictures), direct, strict=True):
        row = found.rows[item.id]
        np.testing.assert_allclose(row["scores"], expected, rtol=0, atol=1e-4)
        assert row["answer"] == WORDS[int(np.argmax(row["scores"]))]
    again = answers(tmp_path)
    assert again.rows == found.rows


def test_each_item_may_have_candidates_of_its_own(model, pictures, tmp_path):
    asked = [
        dataclasses.replace(item, candidates=WORDS[: 2 + number % 2])
        for number, item in enumerate(items(pictures, 6))
    ]
    found = answers(tmp_path)
    ask(task(protocol=Choose()), model, asked, found, Asking(batch_size=4))
    for item in asked:
        row = found.rows[item.id]
        expected = model.score([item.prompt], [item.media[0]], item.candidates)[0]
        assert len(row["scores"]) == len(item.candidates)
        np.testing.assert_allclose(row["scores"], expected, rtol=0, atol=1e-4)


def test_expectation_and_rank():
    scores = np.log(np.array([0.5, 0.25, 0.25]))
    assert Expect((0.0, 1.0, 2.0), WORDS).answer(scores, WORDS) == pytest.approx(0.75)
    assert Rank(2, WORDS).answer(scores[[1, 0, 2]], WORDS) == ["green", "red"]
    assert Choose(WORDS).answer(scores, WORDS) == "red"
    # The probabilities are relative: a constant changes nothing, however small they are.
    assert Expect((0.0, 1.0, 2.0), WORDS).answer(scores - 5000, WORDS) == pytest.approx(0.75)


def test_the_end_counts_where_one_candidate_begins_another(pictures):
    asked = items(pictures, 2)
    assert not need_ends(task(), asked)
    assert need_ends(task(protocol=Choose(("1", "10"))), asked)
    assert need_ends(task(), [dataclasses.replace(asked[0], candidates=("A cat", "A")), asked[1]])
    assert not need_ends(task(protocol=Generate()), asked)


def test_generation_is_the_models_own(model, pictures, tmp_path):
    found = answers(tmp_path)
    ask(task(protocol=Generate(5)), model, items(pictures, 5), found, Asking(batch_size=4))
    direct = model.generate(
        [i.prompt for i in items(pictures, 5)], [i.media[0] for i in items(pictures, 5)], max_new_tokens=5
    )
    assert [found.rows[i.id]["answer"] for i in items(pictures, 5)] == direct


def test_bad_media_cost_their_own_question_only(model, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(png(1)[:60])
    asked = items(pictures, 6)
    asked[1] = dataclasses.replace(asked[1], media=(pictures / "none.png",))
    asked[4] = dataclasses.replace(asked[4], media=(broken,))
    found = answers(tmp_path / "out")
    ask(task(), model, asked, found, Asking(batch_size=4))
    assert "none.png: no such file" in found.rows["q1"]["error"]
    assert "broken.png" in found.rows["q4"]["error"]
    assert sum("answer" in row for row in found.rows.values()) == 4


def test_a_prompt_that_is_too_long_stands_alone(model, pictures, tmp_path):
    asked = items(pictures, 7)
    asked[3] = dataclasses.replace(asked[3], prompt="red " * 5000)
    found = answers(tmp_path)
    ask(task(), model, asked, found, Asking(batch_size=4))
    assert "the model has" in found.rows["q3"]["error"]
    assert sum("answer" in row for row in found.rows.values()) == 6


def test_scores_that_are_no_numbers_are_no_answer(model, pictures, tmp_path):
    class Broken:
        def score(self, prompts, *args, **kwargs):
            found = model.score(prompts, *args, **kwargs)
            found[1, 2] = np.nan
            return found

    found = answers(tmp_path)
    ask(task(), Broken(), items(pictures, 4), found, Asking(batch_size=4))  # type: ignore[arg-type]
    errors = [row["error"] for row in found.rows.values() if "error" in row]
    assert errors == ["model: a score that is not finite"]


def test_stories_go_in_front_of_the_question(model, pictures, tmp_path):
    item = items(pictures, 1)[0]
    said = turns(dataclasses.replace(item, shots=(Turn("human", "a"), Turn("gpt", "b"))), 2, {"q0": "A dog."})
    assert [t.text for t in said] == ["a", "b", f"<image>\n<image>\nStory: A dog.\n{item.prompt}"]
    found = answers(tmp_path)
    ask(task(), model, items(pictures, 2), found, Asking(batch_size=4, stories={"q0": "A dog."}))
    assert "answer" in found.rows["q0"] and found.rows["q1"]["error"] == "no story"


def test_nothing_is_compiled_after_the_first_batches(model, pictures, tmp_path):
    # Each text alone, so that each rounded length is met once; then other batches, the last ones not full.
    for text in range(3):
        warm = items(pictures, 12)[text::3]
        ask(task(), model, warm, answers(tmp_path / "warm" / str(text)), Asking(batch_size=4))
        written = answers(tmp_path / "warm" / f"g{text}")
        ask(task(protocol=Generate(5)), model, warm, written, Asking(batch_size=4))
    programs = (generate._start, generate._score, generate._decode)
    before = [program._cache_size() for program in programs]
    ask(task(), model, items(pictures, 10), answers(tmp_path / "a"), Asking(batch_size=4))
    ask(task(protocol=Generate(5)), model, items(pictures, 11), answers(tmp_path / "b"), Asking(batch_size=4))
    assert [program._cache_size() for program in programs] == before


# --- a whole task ---


@pytest.fixture
def data(tmp_path, pictures) -> Path:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    lines = []
    for number in range(9):
        (folder / f"{number}.png").write_bytes((pictures / f"{number}.png").read_bytes())
        lines.append({"id": f"q{number}", "text": "What colour is this?", "image": f"{number}.png"})
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder.parent


def run(model, data: Path, out: Path, checkpoint: str = "weights", toy: Task | None = None, **plan):
    toy = toy or task()
    how = Asking(batch_size=4)
    questions = {toy.name: read(toy, data)}
    return benchmarks.run(
        [toy], questions, model, checkpoint, how, Plan(data, out, **plan), lambda *given: None
    )


def test_a_run_that_was_stopped_goes_on(model, data, tmp_path, monkeypatch):
    whole = run(model, data, tmp_path / "whole")[0]
    asked: list[int] = []
    real = api.Model.score

    def counted(self, prompts, *args, **kwargs):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, prompts, *args, **kwargs)

    monkeypatch.setattr(api.Model, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, tmp_path / "cut")
    path = tmp_path / "cut" / "toy" / "answers-0000.jsonl"
    assert len(path.read_text().splitlines()) == 1 + 4
    first = path.read_text().splitlines()
    # One line is damaged, and the process was killed in the middle of another.
    damaged = "\n".join([*first[:2], first[2][:20], *first[3:]]) + "\n" + '{"id": "q8", "ans'
    path.write_text(damaged)
    again = run(model, data, tmp_path / "cut")[0]
    assert len(asked) == 2 + 2  # three answers are there, six questions are two batches
    drop = lambda r: {k: v for k, v in r.items() if k != "seconds"}
    assert drop(again) == drop(whole)
    assert Answers(path.parent, Answers(tmp_path / "whole" / "toy", {}).identity).rows.keys() == {
        f"q{i}" for i in range(9)
    }


def test_answers_of_another_checkpoint_are_refused(model, data, tmp_path):
    run(model, data, tmp_path / "out")
    with pytest.raises(
        UserError,
        match=r"checkpoint \(is weights\), .* of checkpoint \(is others\); use another --out, or --restart",
    ):
        run(model, data, tmp_path / "out", checkpoint="others")
    found = run(model, data, tmp_path / "out", checkpoint="others", restart=True)[0]
    assert found["answered"] == 9


def test_changed_questions_are_refused(model, data, tmp_path):
    run(model, data, tmp_path / "out")
    path = data / "toy" / "questions.jsonl"
    path.write_text(path.read_text().replace("What colour", "Which colour"))
    with pytest.raises(UserError, match="holds results of questions"):
        run(model, data, tmp_path / "out")


def test_what_is_missing_is_named_and_is_neither_right_nor_wrong(model, data, tmp_path):
    (data / "toy" / "3.png").unlink()
    found = run(model, data, tmp_path / "out")[0]
    assert (found["questions"], found["answered"], found["scored"]) == (9, 8, 8)
    assert (
        found["not answered"]["media"]["count"] == 1 and "3.png" in found["not answered"]["media"]["first"][0]
    )
    assert found["figures"]["accuracy"]["n"] == 8
    (data / "toy" / "3.png").write_bytes(png(3))
    assert run(model, data, tmp_path / "out")[0]["answered"] == 9  # it is asked when it is there


def test_a_video_that_breaks_off_is_asked_and_counted(model, data, tmp_path):
    film(data / "toy" / "a.mkv", 12, gop=1)
    film(data / "toy" / "b.mkv", 12, gop=1)
    whole = (data / "toy" / "b.mkv").read_bytes()
    (data / "toy" / "b.mkv").write_bytes(whole[: len(whole) // 2])
    path = data / "toy" / "questions.jsonl"
    lines = path.read_text().splitlines()
    lines[2:4] = [
        line.replace(f"{n}.png", f"{v}.mkv") for line, n, v in zip(lines[2:4], (2, 3), "ab", strict=True)
    ]
    path.write_text("\n".join(lines))
    for _ in range(2):  # asked, and read back
        found = run(model, data, tmp_path / "out")[0]
        assert found["answered"] == found["scored"] == 9
        assert found["problems"] == {f"media: {ENDS_EARLY}": {"count": 1, "first": ["q3"]}}


def test_double_ids_and_missing_files_are_named(data):
    path = data / "toy" / "questions.jsonl"
    path.write_text(path.read_text() + "\n" + path.read_text().splitlines()[2])
    found = read(task(), data)
    assert len(found.items) == 9 and found.rejected == {"an id that an item before it has": ["q2"]}
    path.unlink()
    with pytest.raises(UserError, match=r"toy lacks questions.jsonl. Make it"):
        read(task(), data)


def test_hosts_share_the_questions(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.hosts, "barrier", lambda what, minutes: None)
    monkeypatch.setattr(benchmarks.hosts, "agree", lambda facts, minutes: None)
    alone = run(model, data, tmp_path / "alone")[0]
    # One after another, as the barriers would let them: the second finds what the first has answered.
    toy, how = task(), Asking(batch_size=4)
    questions = read(toy, data)
    for host in (1, 0):
        who = benchmarks.identity(toy, questions, model, "weights", how)
        waiting = benchmarks.limited(questions.items, 0)
        ask(toy, model, waiting[host::2], Answers(tmp_path / "two" / "toy", who, host), how)
    together = run(model, data, tmp_path / "two", host=0, hosts=2)[0]
    assert together["figures"] == alone["figures"] and together["answered"] == 9
    sizes = [
        len((tmp_path / "two" / "toy" / f"answers-000{h}.jsonl").read_text().splitlines()) - 1 for h in (0, 1)
    ]
    assert sizes == [5, 4]


def test_a_limit_takes_the_same_whole_groups_each_time(pictures):
    asked = [
        dataclasses.replace(i, meta={"group": i.id[:-1] + str(int(i.id[1:]) // 2)}) for i in items(pictures)
    ]
    some = benchmarks.limited(asked, 4)
    assert some == benchmarks.limited(list(asked), 4) and len(some) == 4
    groups = {i.meta["group"] for i in some}
    assert [i for i in asked if i.meta["group"] in groups] == some
    assert benchmarks.limited(asked, 0) == asked


def test_hidden_truths_are_answered_and_not_scored(model, data, tmp_path):
    hidden = task(load=lambda f, s: (dataclasses.replace(i, truth=None) for i in load(f, s)))
    found = run(model, data, tmp_path / "out", toy=hidden)[0]
    assert found["answered"] == 9 and found["scored"] == 0 and found["figures"] == {}
    assert found["no figures"] == "the truths are not in the release"
    lines = (tmp_path / "out" / "toy" / "llava_answers.jsonl").read_text().splitlines()
    assert len(lines) == 9 and json.loads(lines[0])["prompt"] == "What colour is this?"


def test_truths_that_are_missing_in_part_are_counted(model, data, tmp_path):
    hide = lambda number, item: dataclasses.replace(item, truth=None) if number < 3 else item
    partly = task(load=lambda f, s: (hide(n, i) for n, i in enumerate(load(f, s))))
    found = run(model, data, tmp_path / "out", toy=partly)[0]
    assert (found["answered"], found["scored"], found["figures"]["accuracy"]["n"]) == (9, 6, 6)
    assert found["problems"]["not scored: the release has no truth"] == {
        "count": 3,
        "first": ["q0", "q1", "q2"],
    }


def test_text_that_is_not_unicode_is_not_asked(model, data, tmp_path):
    path = data / "toy" / "questions.jsonl"
    path.write_text(path.read_text().replace('"q4", "text": "What', '"q4", "text": "\\ud83d What'))
    found = run(model, data, tmp_path / "out")[0]
    assert found["rejected"] == {"text that is not Unicode": {"count": 1, "first": ["q4"]}}
    assert found["answered"] == 8


def test_a_run_goes_on_when_more_media_are_there_and_from_elsewhere(model, data, tmp_path, monkeypatch):
    """Which name a video is found under, and how --data-root is written, decide no answer."""
    films = task(
        load=lambda f, s: (
            dataclasses.replace(i, media=(locate(f / "videos", i.id),)) if i.id == "q3" else i
            for i in load(f, s)
        )
    )
    first = run(model, data, tmp_path / "out", toy=films)[0]
    assert first["answered"] == 8
    (data / "toy" / "videos" / "q3").mkdir(parents=True)
    (data / "toy" / "videos" / "q3" / "0.png").write_bytes(png(3))
    monkeypatch.chdir(data)
    assert run(model, Path(), tmp_path / "out", toy=films)[0]["answered"] == 9


def test_answers_of_another_type_of_weights_are_refused(model, data, tmp_path, tiny_base):
    run(model, data, tmp_path / "out")
    with pytest.raises(UserError, match=r"type of weights \(is float32\), .* \(is bfloat16\)"):
        run(api.load(tiny_base, dtype="bfloat16"), data, tmp_path / "out")


def test_mistakes_in_a_later_task_are_told_before_the_first_question(model, data, tmp_path):
    toys = [task(), task(name="other")]
    questions = {toy.name: read(toy, data) for toy in toys}
    last = Answers(tmp_path / "out" / "other", {"checkpoint": "another"})
    give = lambda out, **plan: benchmarks.run(
        toys, questions, model, "weights", Asking(batch_size=4), Plan(data, out, **plan), lambda *given: None
    )
    with pytest.raises(UserError, match=r"other/answers-0000\.jsonl: holds results of checkpoint"):
        give(tmp_path / "out")
    assert not Answers(tmp_path / "out" / "toy", {}).rows and not last.rows
    with pytest.raises(UserError, match=r"task toy: --setting 'zero-shot with story' needs .*stories\.jsonl"):
        give(tmp_path / "more", setting="zero-shot with story")


def test_a_run_that_fails_leaves_no_figures_of_an_earlier_one(model, data, tmp_path, monkeypatch):
    run(model, data, tmp_path / "out", limit=4)
    result = tmp_path / "out" / "toy" / "result.json"
    totals = tmp_path / "out" / "results.json"
    totals.write_text("{}")
    assert json.loads(result.read_text())["asked"] == 4
    monkeypatch.setattr(api.Model, "score", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, data, tmp_path / "out")
    assert not result.exists() and not totals.exists()


def test_a_submission_or_a_figure_that_fails_costs_nothing_else(model, data, tmp_path):
    def submit(rows, folder):
        raise UserError("needs openpyxl")

    def broken(rows):
        raise ValueError("a constant truth")

    found = run(model, data, tmp_path / "a", toy=task(submit=submit))[0]
    assert found["failures"] == ["no submission: needs openpyxl"] and found["figures"]
    assert json.loads((tmp_path / "a" / "toy" / "result.json").read_text())["failures"] == found["failures"]
    found = run(model, data, tmp_path / "b", toy=task(score=broken))[0]
    assert found["failures"] == ["no figure: a constant truth"] == [found["no figures"]]


def test_hosts_that_would_ask_other_questions_do_not_begin(model, data, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(benchmarks.hosts, "agree", lambda facts, minutes: told.append(dict(facts)))
    monkeypatch.setattr(benchmarks.hosts, "barrier", lambda what, minutes: None)
    run(model, data, tmp_path / "out", hosts=2)
    names, identities, waiting = told
    assert names == {"tasks": "toy"} and identities["toy: checkpoint"] == "weights"
    ((what, first),) = waiting.items()
    assert "no answer to" in what and first.startswith("9 (")
    run(model, data, tmp_path / "out", hosts=2)  # five of nine were this host's
    assert next(iter(told[-1].values())).startswith("4 (")


def test_stories_are_read_as_lines_of_json(tmp_path):
    toy = task()
    path = tmp_path / "toy" / "stories.jsonl"
    path.parent.mkdir()
    rows = [{"id": 1, "story": "one\u2028line"}, {"id": "b", "story": None}, {"id": "c", "story": " "}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8-sig")
    assert stories.read(toy, tmp_path, "zero-shot with story") == {"1": "one\u2028line"}
    path.write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"stories\.jsonl:1: not a line"):
        stories.read(toy, tmp_path, "zero-shot with story")


def test_the_number_of_frames_counts_where_there_may_be_videos(model, data):
    def frames(path: Path, count: int) -> str:
        found = read(task(load=lambda f, s: iter([Item("q", "What?", (path,), "red")])), data)
        return benchmarks.identity(task(), found, model, "weights", Asking(frames=count))["frames of a video"]

    assert frames(Path("a.JPG"), 2) == frames(Path("a.JPG"), 4) == "none"
    assert [frames(Path(name), 4) for name in ("a.mp4", "folder", "a.npy")] == ["4"] * 3
