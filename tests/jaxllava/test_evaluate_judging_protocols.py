"""Video QA, dense captions, MM-Vet and ScienceQA as a judge scores them, with a judge that answers by a rule."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.evaluate.judging import JUDGES, captions, mm_vet, science_qa, video_qa
from jaxllava.evaluate.judging.protocol import Case, Plan, asker
from jaxllava.evaluate.scoring import letters, reviews
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks import science_qa as science_task
from jaxllava.evaluate.tasks.task import Item
from jaxllava.teacher.messages import Answer
from tests.jaxllava.benchmark_fixtures import llava
from tests.jaxllava.judging_teacher import RuleTeacher

REAL = (
    Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
    / "bench/noncommercial"
)

# --- video QA ---


def video_case(tmp_path, said) -> Case:
    rows = [
        Answered(str(at), truth, answer, meta={"prompt": f"what {at}?", "id": at // 2})
        for at, (truth, answer) in enumerate(said)
    ]
    return Case(TASKS["msvd_qa"], rows, tmp_path, "weights")


def compare(request) -> str:
    text = request.messages[1].text
    truth = text.partition("Correct Answer: ")[2].partition("\n")[0]
    pred = text.partition("Predicted Answer: ")[2].partition("\n")[0]
    right = truth in pred
    return str({"pred": "yes" if right else "no", "score": 5 if truth == pred else 4.8 if right else 1})


def test_video_qa_asks_as_video_chatgpt_and_scores_as_it(tmp_path):
    case = video_case(tmp_path, [("guitar", "guitar"), ("dog", "a dog {x}"), ("park", "street"), ("two", "")])
    teacher = RuleTeacher(compare)
    judged = video_qa.judge(case, asker(teacher), Plan())
    user = teacher.asked[1].messages[1].text
    assert user.startswith(
        "Please evaluate the following video-based question-answer pair:\n\nQuestion: what 1?\n"
        "Correct Answer: dog\nPredicted Answer: a dog {x}\n\nProvide your evaluation only as a yes/no and score"
    )
    assert user.endswith("For example, your response should look like this: {'pred': 'yes', 'score': 4.8}.")
    assert "in INTEGER, not STRING.DO NOT PROVIDE" in user and "'pred' is  a string" in user
    assert "task:------##INSTRUCTIONS: - Focus" in teacher.asked[0].messages[0].text
    assert judged.figures["accuracy"].mean == 50
    assert judged.figures["score"].mean == (5 + 4 + 1 + 1) / 4  # 4.8 is 4 to the reference
    written = json.loads(judged.files["reviews_1.json"])
    assert list(written) == ["0_0", "0_1", "1_0", "1_1"]  # ids occur twice
    assert written["0_1"] == [{"pred": "yes", "score": 4}, {"q": "what 1?", "a": "dog", "pred": "a dog {x}"}]
    path = tmp_path / "reviews.json"
    path.write_text(judged.files["reviews_1.json"])
    task = TASKS["msvd_qa"]
    assert video_qa.read(task, [path], Plan()).figures == judged.figures
    other = tmp_path / "again.json"
    other.write_text(json.dumps({"0_0": [{"pred": "no", "score": 3}, {}], "0_1": ["what?", {}]}))
    both = video_qa.read(task, [path, other], Plan())
    assert both.figures["accuracy"].mean == pytest.approx(100 * 2 / 5) and both.figures["accuracy"].n == 4
    assert both.problems == {
        f"no review in {other}": ["1_0", "1_1"],
        "4 of the benchmark's 13157 questions have a review, the papers' figures are over all of them": [],
        "no yes or no and score 0-5 in the review: left out": ["0_1"],
    }
    texts = [Answered(key, None, review) for key, review in written.items()]
    assert reviews.video_qa(texts).figures["accuracy"].low == judged.figures["accuracy"].low
    for text in ("{}", "no", json.dumps({"tuple": [8, 6]})):
        path.write_text(text)
        with pytest.raises(UserError, match="no reviews of msvd_qa; they are one JSON object"):
            video_qa.read(task, [path], Plan())


def test_video_qa_asks_again_what_cannot_be_read_and_names_what_never_can(tmp_path):
    case = video_case(tmp_path, [("a", "a"), ("b", "b"), ("c", "c")])

    def rule(request):
        id = request.key.split("/")[1]
        if id == "0":
            return "Sure! It is right." if request.draw < 2 else compare(request)
        return compare(request) if id == "1" else "I cannot."

    teacher = RuleTeacher(rule)
    judged = video_qa.judge(case, asker(teacher), Plan(repeats=2))
    assert judged.problems == {
        "no yes or no and score 0-5 in the review, asked 3 times: left out": ["2", "2"],
    }
    assert judged.figures["accuracy"].mean == 100 and judged.figures["accuracy"].n == 2
    assert len({r.identity("m") for r in teacher.asked}) == len(teacher.asked) == 6 + 4 + 2


# --- dense captions ---


def caption_case(tmp_path) -> Case:
    rows = []
    for number, kind in enumerate(("JPEG", "BMP", "PNG")):
        path = tmp_path / f"{number}.{kind.lower()}"
        Image.new("RGB", (8, 6), (90 * number, 50, 50)).save(path, kind)
        meta = {"image": str(path), "prompt": "Describe."}
        rows.append(Answered(str(number), None, "word " * (number + 3), meta=meta))
    rows.append(
        Answered("lost", None, "x", meta={"image": str(tmp_path / "none.png"), "prompt": "Describe."})
    )
    return Case(TASKS["dense_captions"], rows, tmp_path)


def test_captions_are_judged_with_their_picture_by_three_questions(tmp_path):
    def rule(request):
        (picture,) = request.messages[1].images
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format in ("JPEG", "PNG")
        words = request.messages[1].text.count("word ")
        plus = {"correctness": 0, "detail": 1, "quality": 2}[request.key.split("/")[2]]
        if words == 5 and plus == 2:
            return "I would rather not."
        return f"It has 2 dogs.\nScore: {words + plus}"

    teacher = RuleTeacher(rule)
    judged = captions.judge(caption_case(tmp_path), asker(teacher), Plan())
    assert len(teacher.asked) == 9 and len({r.messages[1].text for r in teacher.asked}) == 9
    means = {name: figure.mean for name, figure in judged.figures.items()}
    assert means == pytest.approx(
        {"average": (4 + 5 + 5.5) / 3, "correctness": 4, "detail": 5, "quality": 5.5}
    )
    assert next(iter(means)) == "average" and judged.figures["average"].unit == "pictures"
    assert judged.problems == {
        "its picture cannot be read (FileNotFoundError): not judged": ["lost"],
        "no score from 1 to 10 in the review of quality: left out": ["2"],
    }
    assert len(judged.files["reviews.jsonl"].splitlines()) == 9


def test_a_caption_review_that_was_cut_before_its_score_gives_none(tmp_path):
    class Cut(RuleTeacher):
        def ask(self, requests):
            for said in super().ask(requests):
                is_cut = isinstance(said, Answer) and "/0/quality/" in said.key
                yield (
                    dataclasses.replace(said, text="It scores well: 2 dogs", finish="length")
                    if is_cut
                    else said
                )

    judged = captions.judge(caption_case(tmp_path), asker(Cut(lambda request: "Two.\nScore: 5")), Plan())
    assert judged.figures["quality"].mean == 5 and judged.figures["quality"].n == 2
    assert judged.problems["the review of quality was cut before its score: left out"] == ["0"]


# --- MM-Vet ---

PROMPT = "Compare.\n\nQuestion | Ground truth | Prediction | Correctness\n"


@pytest.fixture
def mm_vet_case(tmp_path):
    (tmp_path / "mm-vet").mkdir()
    source = f"import nothing_like_it\n\nprompt = {PROMPT!r}\n\nraise SystemExit('run')\n"
    (tmp_path / "mm-vet/mm-vet_evaluator.py").write_text(source)
    rows = [
        Answered(str(n), "-1<AND>-5", answer, meta={"prompt": f"x in {n}?", "capability": capability})
        for n, (answer, capability) in enumerate(
            [("-1 -5", ["ocr", "math"]), ("-1", ["math"]), ("none", ["ocr"]), ("-5", ["rec"])]
        )
    ]
    return Case(TASKS["mm_vet"], rows, tmp_path)


def test_mm_vet_is_graded_with_the_releases_own_prompt(mm_vet_case):
    def rule(request):
        prediction = request.messages[0].text.split(" | ")[-2]
        return f"{('-1' in prediction) * 0.5 + ('-5' in prediction) * 0.5:.1f} |"

    teacher = RuleTeacher(rule)
    judged = mm_vet.judge(mm_vet_case, asker(teacher), Plan())
    (message,) = teacher.asked[0].messages
    assert message.role == "user" and message.text == PROMPT + "\nx in 0? | -1 <AND> -5 | -1 -5 | "
    assert (teacher.asked[0].max_tokens, teacher.asked[0].temperature) == (3, 0.0)
    means = {name: figure.mean for name, figure in judged.figures.items()}
    assert means == {"total": 50, "math": 75, "ocr": 50, "rec": 50}
    assert json.loads(judged.files["grades.json"])["v1_0"] == {"content": ["1.0 |"], "score": [1.0]}


def test_mm_vet_asks_five_times_and_then_counts_nothing(mm_vet_case):
    teacher = RuleTeacher(lambda r: "well" if "/0/" in r.key else "0.5")
    judged = mm_vet.judge(mm_vet_case, asker(teacher), Plan())
    again = [r for r in teacher.asked if "again" in r.key]
    assert [r.temperature for r in again] == [0.0, 0.5, 1.0, 1.5]
    assert all(
        r.messages[0].text.endswith(" | \nPredict the correctness of the answer (digit): ") for r in again
    )
    assert judged.figures["total"].mean == pytest.approx(37.5)
    assert judged.problems == {"no grade from 0 to 1, asked 5 times: counted as 0": ["0"]}
    left = mm_vet.judge(mm_vet_case, asker(teacher), Plan(drop_unparsable=True))
    assert left.figures["total"].mean == pytest.approx(50) and left.figures["total"].n == 3
    path = mm_vet_case.root / "mm-vet/mm-vet_evaluator.py"
    path.write_text("prompt = 3\n")
    with pytest.raises(UserError, match="assigns no text"):
        mm_vet.prompt(mm_vet_case)
    path.unlink()
    with pytest.raises(UserError, match=r"mm-vet_evaluator\.py"):
        mm_vet.prompt(mm_vet_case)


def test_mm_vet_asks_five_times_at_one_temperature_too(mm_vet_case):
    teacher = RuleTeacher(lambda r: "well" if "/0/" in r.key else "0.5")
    JUDGES["mm_vet"].judge(mm_vet_case, asker(teacher), Plan(repeats=2, temperature=1.0, max_tokens=99))
    assert {(r.temperature, r.max_tokens) for r in teacher.asked} == {(1.0, 99)}
    assert len({r.identity("m") for r in teacher.asked}) == len(teacher.asked) == 2 * (4 + 4)


# --- ScienceQA ---


def science_case(tmp_path, answers, truths) -> Case:
    rows = [
        Answered(str(n), truth, answer, meta={
            "prompt": f"Which, {n}?\nA. a\nB. b\nC. c\n{llava.LETTER}",
            "choices": ["a", "b", "c"], "image": n == 0, "hint": False, "subject": "natural science",
        })
        for n, (answer, truth) in enumerate(zip(answers, truths, strict=True))
    ]  # fmt: skip
    return Case(TASKS["scienceqa"], rows, tmp_path)


def test_science_qa_alone_complement_and_ensemble(tmp_path):
    # The model: right, wrong, right, right, wrong. The judge: differs, same, no letter, differs, differs.
    case = science_case(tmp_path, ["A", "B", "The answer is C.", "B", "A"], ["A", "A", "C", "B", "B"])
    alone = {"0": "B", "1": "B", "3": "C", "4": "B"}
    second = {"0": "Hard. The answer is A.", "2": "No.", "3": "The answer is C.", "4": "The answer is B."}

    def rule(request):
        id = request.key.split("/")[1]
        text = request.messages[1].text
        if "/again/" in request.key:
            assert "Second answer:\n" in text and f"Which, {id}?" in text
            return second[id]
        assert ("picture that you cannot see" in text) == (id == "0")
        assert "directly" not in text
        return f"Well. The answer is {alone[id]}." if id in alone else "I cannot tell."

    teacher = RuleTeacher(rule)
    judged = science_qa.judge(case, asker(teacher), Plan())
    again = sorted(r.key.split("/")[1] for r in teacher.asked if "/again/" in r.key)
    assert again == ["0", "2", "3", "4"]
    means = {name: figure.mean for name, figure in judged.figures.items()}
    assert next(iter(means)) == "ensemble"
    assert means["ensemble"] == means["NAT"] == 60  # A right, B wrong, the model's C, C wrong, B right
    assert means["complement"] == 40  # B, B, the model's C, C, B
    assert means["model"] == 60
    assert means["IMG"] == 100 and means["NO"] == 50
    assert judged.problems == {
        "no letter of a choice in the answer of the judge: guessed": ["2"],
        "no letter when asked again: the model's answer stands": ["2"],
    }
    lines = [json.loads(line) for line in judged.files["choices.jsonl"].splitlines()]
    assert [line["chosen"] for line in lines] == ["A", "B", "C", "C", "B"]
    seeded = lambda seed: science_qa.judge(case, asker(RuleTeacher(rule)), Plan(seed=seed)).figures
    guesses = {seeded(seed)["alone"].mean for seed in range(9)}
    assert guesses == {20, 40}, "the second alone is right, and the guess is right for some seeds"
    assert seeded(0) == judged.figures


def test_science_qa_when_the_judge_fails_keeps_the_models_answer(tmp_path):
    case = science_case(tmp_path, ["A", "B", "E"], ["A", "A", "A"])
    judged = science_qa.judge(case, asker(RuleTeacher(lambda r: None if "/0/" in r.key else "A")), Plan())
    assert judged.figures["alone"].mean == 100 and judged.figures["alone"].n == 2
    assert judged.figures["complement"].mean == 100 == judged.figures["ensemble"].mean
    assert judged.problems["the judge failed, left out: refused"] == ["0"]
    assert judged.problems["no letter of a choice in the answer of the model: guessed"] == ["2"]


@pytest.mark.skipif(not REAL.exists(), reason="no real data here: set JAXLLAVA_REAL_DATA")
def test_science_qa_of_real_answers_beside_a_silent_and_a_perfect_judge(tmp_path):
    folder = tmp_path / "scienceqa"
    folder.mkdir()
    (folder / "llava_test_CQM-A.json").symlink_to(REAL / "scienceqa_llava_test_CQM-A.json")
    predictions = json.loads((REAL / "scienceqa_predictions_llava-v1.5-13b.json").read_text())
    said = {str(one["question_id"]): one["pred"] for one in predictions}
    items = [one for one in science_task.load(folder, "test") if isinstance(one, Item) and one.id in said]
    rows = [Answered(i.id, i.truth, said[i.id], meta={**i.meta, "prompt": i.prompt}) for i in items]
    assert len(rows) >= 20
    own = letters.scienceqa(rows).figures["accuracy"].mean
    assert 0 < own < 100
    case = Case(TASKS["scienceqa"], rows, tmp_path)
    judged = science_qa.judge(case, asker(RuleTeacher(lambda request: "I cannot tell.")), Plan())
    silent = {name: figure.mean for name, figure in judged.figures.items()}
    assert silent["ensemble"] == silent["complement"] == silent["model"]
    # These scripts guess where eval_science_qa.py counts an answer without a letter of a choice as wrong.
    given = lambda row: "ABCDE"[: len(row.meta["choices"])]
    unread = [row.id for row in rows if letters.scienceqa_letter(row.answer) not in given(row)]
    assert judged.problems["no letter of a choice in the answer of the model: guessed"] == unread != []
    assert own <= silent["model"] <= own + 100 * len(unread) / len(rows)
    truths = {row.id: row.truth for row in rows}
    teacher = RuleTeacher(lambda request: f"The answer is {truths[request.key.split('/')[1]]}.")
    perfect = science_qa.judge(case, asker(teacher), Plan()).figures
    assert perfect["ensemble"].mean == perfect["alone"].mean == perfect["either"].mean == 100
    wrong = sum(letters.scienceqa_letter(row.answer) != row.truth for row in rows)
    assert len(teacher.asked) == len(rows) + wrong


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"prompt = ' '", "assigns no text"),
        (b"prompt = '\xff'", "not Python"),
        (b"prompt = " + b"(" * 300 + b")" * 300, "not Python"),
        (b"prompt = " + b"-" * 100_000 + b"1", "not Python"),
        (None, "cannot be read"),
    ],
)
def test_a_grader_that_is_damaged_is_said_in_one_line(tmp_path, code, said):
    path = tmp_path / "mm-vet_evaluator.py"
    path.mkdir() if code is None else path.write_bytes(code)
    with pytest.raises(UserError, match=said) as error:
        mm_vet.prompt(Case(TASKS["mm_vet"], [], tmp_path))
    assert "\n" not in str(error.value)


def test_a_graders_prompt_can_be_sent(tmp_path):
    (tmp_path / "mm-vet_evaluator.py").write_text(r"prompt = 'Grade \ud800.'")
    assert mm_vet.prompt(Case(TASKS["mm_vet"], [], tmp_path)) == "Grade ?."
