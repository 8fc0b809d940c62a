"""LLaVA-Bench's reviews: requests letter for letter, the reference's figures, exchanged orders, repeats."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate import benchmark_table
from jaxllava.evaluate.judging import relative, run, spread
from jaxllava.evaluate.judging.protocol import Case, Plan, asker
from jaxllava.evaluate.scoring import reviews
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import TASKS, llava_bench
from jaxllava.evaluate.tasks.task import Item
from tests.jaxllava.judging_teacher import RuleTeacher

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "llava"
real = pytest.mark.skipif(not REAL.exists(), reason="no real data here: set JAXLLAVA_REAL_DATA")
COCO = TASKS["llava_bench_coco"]
RULES = {name: {"role": "Assistant", "prompt": f"Score by {name}."} for name in ("conv", "detail", "complex")}


def rows(lengths, categories=("conv", "detail", "complex")) -> list[Answered]:
    """Answers of so many words beside reference answers of so many: [(reference, model), ...]."""
    return [
        Answered(
            str(at),
            "r " * first,
            "m " * second,
            meta={
                "prompt": f"What, {at}?",
                "context": "A cat.\n\ncat: [0.1, 0.2, 0.3, 0.4]",
                "category": categories[at % len(categories)],
                "line": {"question_id": at},
            },
        )
        for at, (first, second) in enumerate(lengths)
    ]


@pytest.fixture
def case(tmp_path):
    folder = tmp_path / TASKS["llava_bench_coco"].folder
    folder.mkdir()
    (folder / "rule.json").write_text(json.dumps(RULES))
    return lambda rows: Case(TASKS["llava_bench_coco"], rows, tmp_path, "weights")


def by_words(bias: float = 0.0, noise: float = 0.0):
    """A judge whose scores are the answers' numbers of words, with `bias` for standing first."""

    def rule(request):
        said = re.findall(r"\[Assistant \d\]\n(.*?)\n\n\[End of Assistant", request.messages[1].text, re.S)
        first, second = (float(len(answer.split())) for answer in said)
        shake = np.random.default_rng([request.draw, len(request.messages[1].text)]).normal() * noise
        return f"{first + bias} {second + shake}\nBecause of words."

    return RuleTeacher(rule)


def test_a_request_is_the_references_letter_for_letter(case):
    (one, exchanged) = relative.requests(case(rows([(2, 3)])), Plan(swap=True))
    assert [(m.role, m.images) for m in one.messages] == [("system", ()), ("user", ())]
    assert one.messages[0].text == (
        "You are a helpful and precise assistant for checking the quality of the answer."
    )
    assert one.messages[1].text == (
        "[Context]\nA cat.\n\ncat: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat, 0?\n\n"
        "[Assistant 1]\nr r \n\n[End of Assistant 1]\n\n[Assistant 2]\nm m m \n\n[End of Assistant 2]\n\n"
        "[System]\nScore by conv.\n\n"
    )
    assert (one.max_tokens, one.temperature, one.draw) == (1024, 0.2, 0)
    assert (
        "[Assistant 1]\nm m m \n\n[End of Assistant 1]\n\n[Assistant 2]\nr r " in exchanged.messages[1].text
    )
    assert one.key != exchanged.key


def test_the_rules_are_found_beside_the_answers_or_in_a_checkout_and_missed_by_name(case, tmp_path):
    assert relative.rules(case([]))["conv"]["prompt"] == "Score by conv."
    checkout = tmp_path / "LLaVA"
    (checkout / "llava/eval/table").mkdir(parents=True)
    (checkout / "llava/eval/table/rule.json").write_text("{}")
    (checkout / "playground/data/eval").mkdir(parents=True)
    there = Case(TASKS["llava_bench_wild"], [], checkout / "playground/data/eval")
    assert relative.rules(there) == {}
    with pytest.raises(UserError, match=r"rule\.json.*llava-bench-in-the-wild"):
        relative.rules(Case(TASKS["llava_bench_wild"], [], tmp_path / "LLaVA" / "llava"))
    with pytest.raises(UserError, match="no role and prompt of 'other'"):
        list(relative.requests(case(rows([(1, 1)], ("other",))), Plan()))


def test_the_summary_is_what_the_reference_prints():
    pairs = [
        ("conv", (9, 8)),
        ("conv", (8, 6.5)),
        ("detail", (9, 3)),
        ("complex", (-1, -1)),
        ("conv", (7, 8)),
    ]
    # conv: means 8 and 7.5; complex: -1 / -1; all: 32 / 5 and 24.5 / 5, a ratio of means.
    assert relative.summary(pairs) == (
        "all 76.6 64.0 49.0\ncomplex 100.0 -10.0 -10.0\nconv 93.8 80.0 75.0\ndetail 33.3 90.0 30.0\n"
    )
    # 5 / 4 is 125.0, and the means are rounded to 1.333 and 1.667 first.
    assert relative.summary([(None, (1, 1)), (None, (1, 2)), (None, (2, 2))]) == "all 125.1 13.3 16.7\n"


def test_figures_and_intervals_are_those_of_written_reviews(case):
    given = rows([(8, 4), (2, 4), (10, 10), (9, 7), (6, 3)])
    judged = relative.judge(case(given), asker(by_words()), Plan())
    texts = [
        Answered(r.id, None, f"{len(r.truth.split())} {len(r.answer.split())}\nx", meta=r.meta) for r in given
    ]
    assert judged.figures == {
        name: figure.__class__(**{**figure.to_dict(), "unit": "questions"})
        for name, figure in reviews.relative_score(texts).figures.items()
    }
    assert judged.figures["all"].mean == pytest.approx(100 * 28 / 35)
    assert not judged.problems


def test_an_unreadable_review_counts_as_minus_one_or_is_left_out_and_a_failure_is_never_counted(case):
    given = rows([(8, 4), (8, 4), (8, 4), (8, 4)])
    ask = by_words().rule

    def rule(request):
        number = int(request.key.split("/")[1])
        return {1: "Both are good.", 2: None, 3: ""}.get(number, ask(request))

    counted = relative.judge(case(given), asker(RuleTeacher(rule)), Plan())
    assert counted.figures["all"].mean == pytest.approx(100 * (4 - 1 - 1) / (8 - 1 - 1))
    assert counted.problems == {
        "no two scores in the review's first line: counted as -1 -1": ["1", "3"],
        "the judge failed, left out: refused": ["2"],
        "the judge answered nothing": ["3"],
    }
    left = relative.judge(case(given), asker(RuleTeacher(rule)), Plan(drop_unparsable=True))
    assert left.figures["all"].mean == pytest.approx(50) and left.figures["all"].n == 1
    for said, tail in ((None, "line$"), ("Both are good.", "begins 'Both are good.'")):  # -1 / -1 is no 100 %
        with pytest.raises(UserError, match="none of the reviews that came has two scores.*" + tail):
            relative.judge(case(given), asker(RuleTeacher(lambda request, said=said: said)), Plan())


def test_a_judge_that_looks_at_answers_alone_says_the_same_in_both_orders(case):
    found = relative.judge(case(rows([(8, 4), (2, 4), (10, 10)])), asker(by_words()), Plan(swap=True)).figures
    assert found["all"] == found["all (swapped)"] == found["all (both orders)"]
    assert found["points for standing first"].mean == 0
    turned = relative.judge(case(rows([(4, 8), (4, 2), (10, 10)])), asker(by_words()), Plan()).figures
    assert turned["all"].mean == pytest.approx(100 * 100 / found["all"].mean)


def test_a_judge_that_favours_what_stands_first_is_found_out(case):
    plan = Plan(swap=True)
    found = relative.judge(case(rows([(8, 4), (2, 4), (8, 10)])), asker(by_words(bias=1.5)), plan).figures
    assert found["all"].mean == pytest.approx(100 * 18 / (18 + 4.5))
    assert found["all (swapped)"].mean == pytest.approx(100 * (18 + 4.5) / 18)
    assert found["all (both orders)"].mean == pytest.approx((80 + 125) / 2)
    assert found["points for standing first"].mean == pytest.approx(1.5)


def test_both_orders_are_averaged_over_the_questions_that_have_both(case):
    ask = by_words(bias=1.0).rule

    def rule(request):
        return None if request.key.split("/")[1:3] == ["2", "swapped"] else ask(request)

    found = relative.judge(
        case(rows([(8, 4), (2, 4), (1, 9)])), asker(RuleTeacher(rule)), Plan(swap=True)
    ).figures
    assert found["all"].mean == pytest.approx(100 * 17 / 14) and found["all"].n == 3
    assert found["all (swapped)"].mean == pytest.approx(100 * 10 / 10)
    assert found["all (both orders)"].mean == pytest.approx((100 * 8 / 12 + 100) / 2)
    assert found["all (both orders)"].n == 2
    apart = RuleTeacher(lambda r: None if ("swapped" in r.key) == ("/0/" in r.key) else ask(r))
    found = relative.judge(case(rows([(8, 4), (2, 4)])), asker(apart), Plan(swap=True)).figures
    assert "all (swapped)" in found and "all (both orders)" not in found


def test_reviews_are_written_as_the_reference_has_them_and_read_to_the_same_figures(case, tmp_path):
    given = rows([(8, 4), (2, 4), (10, 10)])
    plan = Plan(repeats=2, swap=True)
    teacher = by_words(noise=0.5)
    judged = relative.judge(case(given), asker(teacher), plan)
    assert len(teacher.asked) == 3 * 2 * 2 and len({r.identity("x") for r in teacher.asked}) == 12
    assert sorted(judged.files) == sorted(
        ["reviews_1.jsonl", "reviews_2.jsonl", "reviews_swapped_1.jsonl", "reviews_swapped_2.jsonl",
         "summary_1.txt", "summary_2.txt"]
    )  # fmt: skip
    lines = [json.loads(line) for line in judged.files["reviews_1.jsonl"].splitlines()]
    assert list(lines[0]) == [
        "id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple"
    ]  # fmt: skip
    assert [line["id"] for line in lines] == [1, 2, 3] and lines[0]["question_id"] == 0
    swapped = json.loads(judged.files["reviews_swapped_1.jsonl"].splitlines()[0])
    assert swapped["answer1_id"] == lines[0]["answer2_id"] and swapped["tuple"][0] == 4
    for name, text in judged.files.items():
        (tmp_path / name).write_text(text)
    path, second = (tmp_path / f"reviews_{number}.jsonl" for number in (1, 2))
    again = relative.read(COCO, [path], Plan())
    assert again.files["summary_1.txt"] == judged.files["summary_1.txt"]
    once = relative.judge(case(given), asker(by_words(noise=0.5)), Plan())
    assert again.figures == once.figures != judged.figures
    assert relative.judge(case(given), asker(by_words(noise=0.5)), plan).figures == judged.figures
    twice = relative.judge(case(given), asker(by_words(noise=0.5)), Plan(repeats=2)).figures
    assert relative.read(COCO, [path, second], Plan()).figures == twice, "files are repeats"
    for paths, says in (
        ([path, tmp_path / "reviews_swapped_2.jsonl"], "exchanged; give files of one order"),
        ([path, path], "given twice"),
        ([path, tmp_path / "none.jsonl"], r"--judge-reviews .*none\.jsonl: cannot be read"),
    ):
        with pytest.raises(UserError, match=says):
            relative.read(COCO, paths, Plan())
    path.write_text('{"question_id": 1}\nno\n')
    with pytest.raises(UserError, match="no reviews of llava_bench_coco; they are JSON lines"):
        relative.read(COCO, [path], Plan())


def test_repeats_that_lack_questions_are_told_and_parts_of_one_judging_refused(tmp_path):
    def put(name: str, reviews: dict[int, list[float]], answer: str = "a", category: str = "conv") -> Path:
        lines = [
            {"question_id": id, "category": category, "tuple": pair, "answer1_id": "r", "answer2_id": answer}
            for id, pair in reviews.items()
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    first, second = put("1", {1: [8, 4], 2: [8, 8]}), put("2", {2: [8, 2]}, answer="b")
    judged = relative.read(COCO, [first, second], Plan())
    assert judged.figures["all"].mean == pytest.approx(100 * 14 / 24) and judged.figures["all"].n == 2
    assert judged.problems == {
        f"no review in {second}": ["1"],
        "2 of the benchmark's 90 questions have a review, the papers' figures are over all of them": [],
        f"the review in {second} is of other answers than that in {first}": ["2"],
    }
    with pytest.raises(UserError, match="has none of the questions of"):
        relative.read(COCO, [first, put("3", {3: [8, 8]})], Plan())
    with pytest.raises(UserError, match="no review has two scores"):
        relative.read(COCO, [put("4", {1: [-1, -1]})], Plan())
    with pytest.raises(
        UserError, match="whose categories are conv, detail, complex; its categories are coding"
    ):
        relative.read(COCO, [put("5", {1: [8, 9]}, category="coding")], Plan())
    whole = relative.read(COCO, [put("6", {id: [8, 9] for id in range(90)})], Plan())
    assert not whole.problems


def test_intervals_cover_the_truth_and_narrow_with_repeats():
    generator = np.random.default_rng(0)
    covered = {"once": 0, "thrice": 0}
    widths = {"once": 0.0, "thrice": 0.0}
    for _ in range(120):
        level = generator.normal(5, 1, size=(40, 1))
        scores = level + generator.normal(0, 1.5, size=(40, 3))
        for name, values in (("once", scores[:, :1]), ("thrice", scores)):
            found = spread.estimate(spread.mean, [values], name="x", resamples=400)
            covered[name] += found.low <= 5 <= found.high
            widths[name] += (found.high - found.low) / 120
    assert all(0.88 <= count / 120 <= 1.0 for count in covered.values()), covered
    assert widths["thrice"] < 0.9 * widths["once"]


@real
def test_the_figures_of_real_reviews_are_the_ratio_of_their_means():
    path = REAL / "llava_bench_wild_reviews.jsonl"
    judged = relative.read(TASKS["llava_bench_wild"], [path], Plan())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first, second = np.array([line["tuple"] for line in lines], float).T
    assert judged.figures["all"].mean == pytest.approx(100 * second.sum() / first.sum())
    assert judged.figures["all"].n == len(lines) and len(judged.figures) == 3 + 3
    shown = judged.files["summary_1.txt"].splitlines()[0].split()
    assert shown[0] == "all" and float(shown[1]) == pytest.approx(judged.figures["all"].mean, abs=0.06)
    assert any(what.startswith("30 of the benchmark's 60 questions") for what in judged.problems)
    with pytest.raises(UserError, match="they have no categories"):  # of questions without pictures
        relative.read(COCO, [REAL / "review_alpaca-13b_vicuna-13b.jsonl"], Plan())


@real
def test_real_questions_become_requests_with_the_releases_own_prompts(tmp_path):
    folder = tmp_path / "coco2014_val_qa_eval"
    folder.mkdir()
    for name, there in (("qa90_questions.jsonl", "qa90_questions.jsonl"), ("rule.json", "rule.json"),
                        ("qa90_gpt4_answer.jsonl", "qa90_gpt4_answer.jsonl"),
                        ("caps_boxes_coco2014_val_80.jsonl", "caps_boxes_coco2014_val.jsonl")):  # fmt: skip
        (folder / name).symlink_to(REAL / there)
    items = [one for one in llava_bench.load_coco(folder, "test") if isinstance(one, Item)]
    given = [Answered(i.id, i.truth, "An answer.", meta={**i.meta, "prompt": i.prompt}) for i in items]
    case = Case(TASKS["llava_bench_coco"], given, tmp_path)
    asked = list(relative.requests(case, Plan()))
    prompts = {name: rule["prompt"] for name, rule in json.loads((REAL / "rule.json").read_text()).items()}
    with_context = {row.id: row for row in given if "context" in row.meta}
    assert len(items) == 45 and len(asked) == len(with_context) > 0
    for request in asked:
        row = with_context[request.key.split("/")[1]]
        text = request.messages[1].text
        assert text.startswith("[Context]\n" + row.meta["context"] + "\n\n[Question]\n" + row.meta["prompt"])
        assert text.endswith(f"[System]\n{prompts[row.meta['category']]}\n\n")
    judged = relative.judge(case, asker(RuleTeacher(lambda request: "8 6\nx")), Plan())
    assert judged.figures["all"].mean == pytest.approx(75)
    lost = len(items) - len(asked)
    assert len(judged.problems.get("no context of its picture: not judged", [])) == lost


def _read(tmp_path, *lines, plan=None):
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.of_files(COCO, [path], plan or Plan(), "zero-shot")


@pytest.mark.parametrize(
    "pair", ["98", [True, 2], [10**400, 1], [1e308, 1], {"1": 1, "2": 2}, [1, 2, 3], [1, None], 7]
)
def test_scores_that_are_none_cost_no_other_review(tmp_path, pair):
    result = _read(tmp_path, {"category": "conv", "tuple": [8, 4]}, {"category": "conv", "tuple": pair})
    assert result["figures"]["all"]["mean"] == 50 and result["scored"] == 1
    told = {what: found for what, found in result["problems"].items() if found["count"]}
    assert told == {"not a review: no two scores": {"count": 1, "first": [f"{tmp_path}/reviews.jsonl:2"]}}


@pytest.mark.parametrize("category", [5, ["conv"], None, {}, "coding", "all", "reference", ""])
def test_a_review_without_a_category_counts_among_all(tmp_path, category):
    result = _read(tmp_path, {"category": "conv", "tuple": [8, 4]}, {"category": category, "tuple": [8, 8]})
    assert result["figures"]["all"]["mean"] == 75 and result["figures"]["conv"]["mean"] == 50
    assert result["problems"]["no category of the task in the review: counted among all"]["count"] == 1
    assert "\n" in benchmark_table.details(result, COCO)


def test_reviews_that_define_no_figure_are_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"reviews\.jsonl: no figure: all is undefined"):
        _read(tmp_path, {"category": "conv", "tuple": [0, 4]})


@pytest.mark.parametrize(
    "rule", [{"role": None, "prompt": "P"}, {"role": "A", "prompt": ["P"]}, {"role": " ", "prompt": "P"}]
)
def test_a_prompt_that_is_no_text_is_not_asked_with(tmp_path, rule):
    (tmp_path / "rule.json").write_text(json.dumps(RULES | {"conv": rule}))
    case = Case(TASKS["llava_bench_coco"], rows([(1, 1)]), tmp_path)
    with pytest.raises(UserError, match=r"rule\.json has no role and prompt of 'conv'"):
        list(relative.requests(case, Plan()))
