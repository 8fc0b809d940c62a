"""LLaVA-Bench, COCO and in the wild: GPT review and relative score (LLaVA's llava/eval/eval_gpt_review_visual.py,
eval_gpt_review_bench.py and summarize_gpt_review.py).

Assistant 1 is the text-only reference answer, assistant 2 the model. The reviewing prompts are read from LLaVA's
rule.json. With `Plan.swap` each pair is reviewed a second time with the assistants exchanged; scores are put back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, lines
from jaxllava.evaluate import answers as answer_files
from jaxllava.evaluate.judging import spread, written
from jaxllava.evaluate.judging.protocol import TEMPERATURE, Ask, Case, Judge, Judged, Plan, Said, text_of
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring.answered import Answered, Problems, groups
from jaxllava.evaluate.scoring.reviews import is_score, score_pair
from jaxllava.evaluate.tasks import llava_bench
from jaxllava.evaluate.tasks.llava_layout import first_of, read_json
from jaxllava.evaluate.tasks.task import Task
from jaxllava.teacher.messages import Answer, Message, Request

# An interface string of LLaVA's reviewer; figures depend on every letter of it.
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
MAX_TOKENS = 1024
_UNREAD = (-1.0, -1.0)


def rules(case: Case) -> dict[str, Any]:
    """LLaVA's rule.json: category to {"role", "prompt"}. Raises UserError that says where to put it."""
    folder = case.root / case.task.folder
    places = [folder, folder / "table", case.root, case.root / "table"]
    above = case.root.resolve().parents
    if len(above) > 2:  # --data-root is playground/data/eval of a checkout of LLaVA
        places.append(above[2] / "llava/eval/table")
    found = next((path for place in places if (path := first_of(place, "rule.json"))), None)
    if found is None:
        raise UserError(
            f"task {case.task.name}: the reviewing prompts are not there; put llava/eval/table/rule.json of "
            f"https://github.com/haotian-liu/LLaVA (Apache-2.0) into {folder}"
        )
    return read_json(found, dict)


def content(row: Answered, rule: Mapping[str, str], swapped: bool) -> str:
    """What the reviewer is shown of a question and its two answers."""
    shown = [row.truth, row.answer or ""]
    if swapped:
        shown.reverse()
    role = rule["role"]
    pair = "".join(
        f"[{role} {number}]\n{answer}\n\n[End of {role} {number}]\n\n"
        for number, answer in enumerate(shown, 1)
    )
    question = f"[Question]\n{row.meta['prompt']}\n\n"
    return f"[Context]\n{row.meta['context']}\n\n{question}{pair}[System]\n{rule['prompt']}\n\n"


def _usable(case: Case, problems: Problems) -> list[Answered]:
    rows = []
    for row in case.rows:
        if row.truth is None:
            problems.note("no reference answer: not judged", row.id)
        elif "context" not in row.meta:
            problems.note("no context of its picture: not judged", row.id)
        else:
            rows.append(row)
    return rows


def _rule(found: Mapping[str, Any], row: Answered) -> Mapping[str, str]:
    rule = found.get(row.meta["category"])
    parts = {key: rule.get(key) if isinstance(rule, dict) else None for key in ("role", "prompt")}
    texts = {
        key: fields.writable(part) for key, part in parts.items() if isinstance(part, str) and part.strip()
    }
    if len(texts) < len(parts):
        raise UserError(f"rule.json has no role and prompt of {row.meta['category']!r}; get LLaVA's anew")
    return texts


def _key(case: Case, row: Answered, swapped: bool, draw: int) -> str:
    return f"{case.task.name}/{row.id}/{'swapped' if swapped else 'as it is'}/{draw}"


def requests(case: Case, plan: Plan) -> Iterator[Request]:
    found = rules(case)
    for row in _usable(case, Problems()):
        for swapped in (False, True)[: 1 + plan.swap]:
            text = content(row, _rule(found, row), swapped)
            messages = (Message("system", SYSTEM), Message("user", text))
            for draw in range(plan.repeats):
                key = _key(case, row, swapped, draw)
                yield Request(key, messages, MAX_TOKENS, TEMPERATURE, draw=draw)


def judge(case: Case, ask: Ask, plan: Plan) -> Judged:
    said = ask(requests(case, plan))
    problems = Problems()
    rows = _usable(case, problems)
    if not rows:
        raise UserError("no answer has both a reference answer and a context")
    orders = [
        np.array([[_pair(case, row, swapped, draw, said, plan, problems) for draw in range(plan.repeats)]
                  for row in rows])
        for swapped in (False, True)[: 1 + plan.swap]
    ]  # fmt: skip  # each [questions, judgings, 2]: the reference's score and the model's
    if not any((order >= 0).any() for order in orders):  # -1 / -1 would be a perfect 100 %
        begins = next((one.text for one in said.values() if isinstance(one, Answer)), None)
        example = "" if begins is None else f"; the first begins {' '.join(begins.split())[:80]!r}"
        raise UserError(f"none of the reviews that came has two scores in its first line{example}")
    found = figures(orders, [row.meta["category"] for row in rows], plan.seed)
    files = {}
    for swapped in (False, True)[: 1 + plan.swap]:
        for draw in range(plan.repeats):
            name = f"reviews_{'swapped_' if swapped else ''}{draw + 1}.jsonl"
            records = review_records(case, rows, swapped, draw, said)
            files[name] = "".join(json.dumps(record) + "\n" for record in records)
            if not swapped and records:
                pairs = [(record["category"], record["tuple"]) for record in records]
                files[f"summary_{draw + 1}.txt"] = summary(pairs)
    return Judged(found, problems, files)


def _pair(
    case: Case, row: Answered, swapped: bool, draw: int, said: Said, plan: Plan, problems: Problems
) -> tuple[float, float]:
    """The reference's and the model's score, NaN where the review is not counted."""
    text = text_of(said[_key(case, row, swapped, draw)], row.id, problems)
    nothing = (float("nan"), float("nan"))
    if text is None:
        return nothing
    pair = score_pair(text)
    if pair is None:
        consequence = "left out" if plan.drop_unparsable else "counted as -1 -1"
        problems.note(f"no two scores in the review's first line: {consequence}", row.id)
        return nothing if plan.drop_unparsable else _UNREAD
    return (pair[1], pair[0]) if swapped else pair


def figures(orders: Sequence[Array], categories: Sequence[str | None], seed: int = 0) -> dict[str, Estimate]:
    """The relative scores in percent, over all and by category, and ten times the two mean scores.

    100 x the model's mean / the reference's mean: a ratio of means. With two orders also "all (swapped)", "all (both
    orders)", the mean of the two over what was reviewed in both, and "points for standing first": by how many points
    of 10 the judge favours an answer for being shown as assistant 1, which is 0 where the order does not matter to it.

    Args:
        orders: one or two of [questions, judgings, 2], the reference's and the model's score, as shown and swapped.
        categories: [questions].
        seed: of the intervals.
    """

    def figure(name: str, index: Sequence[int] | slice, order: int) -> None:
        columns = [orders[order][index, :, who] for who in (0, 1)]
        if name == "all" or np.isfinite(columns).any():  # of a category perhaps no review was read
            found[name] = spread.estimate(spread.ratio, columns, name=name, seed=seed)

    found: dict[str, Estimate] = {}
    figure("all", slice(None), 0)
    if len(orders) == 2 and np.isfinite(orders[1]).any():
        figure("all (swapped)", slice(None), 1)
        has_both = np.isfinite(orders).all(axis=(0, 3))  # [questions, judgings]
        if has_both.any():
            columns = [np.where(has_both, order[:, :, who], np.nan) for order in orders for who in (0, 1)]
            halves = lambda a, b, c, d: (spread.ratio(a, b) + spread.ratio(c, d)) / 2
            name = "all (both orders)"
            found[name] = spread.estimate(halves, columns, name=name, seed=seed)
        first = _first_place(orders[0], orders[1])
        if np.isfinite(first).any():
            name = "points for standing first"
            found[name] = spread.estimate(spread.mean, [first], name=name, seed=seed)
    members = groups(categories)
    for category in sorted(str(key) for key in members if key is not None):
        figure(category, members[category], 0)
    for name, who in (("reference", 0), ("model", 1)):
        column = orders[0][:, :, who] * 10
        found[name] = spread.estimate(spread.mean, [column], name=name, seed=seed)
    return found


def _first_place(shown: Array, swapped: Array) -> Array:
    """[questions, judgings]: by how much assistant 1 is ahead, averaged over the orders; NaN unless both were read."""
    read = (shown >= 0).all(axis=-1) & (swapped >= 0).all(axis=-1)
    ahead = (shown[..., 0] - shown[..., 1] + swapped[..., 1] - swapped[..., 0]) / 2
    return np.where(read, ahead, np.nan)


def review_records(
    case: Case, rows: Sequence[Answered], swapped: bool, draw: int, said: Said
) -> list[dict[str, Any]]:
    """The reviews as LLaVA's scripts write them; of swapped ones `answer1_id` is the model's, and `tuple` as said."""
    records = []
    for number, row in enumerate(rows, 1):
        review = said[_key(case, row, swapped, draw)]
        if not isinstance(review, Answer):
            continue
        id = row.meta.get("line", {}).get("question_id", row.id)
        mine = row.meta.get("answer_id") or answer_files.digest([row.id, case.answered_by])
        ids = [row.meta.get("reference_id", id), mine]
        if swapped:
            ids.reverse()
        records.append(
            {
                "id": number,
                "question_id": id,
                "answer1_id": ids[0],
                "answer2_id": ids[1],
                "category": row.meta["category"],
                "content": review.text,
                "tuple": list(score_pair(review.text) or _UNREAD),
            }
        )
    return records


def summary(pairs: Sequence[tuple[str | None, Sequence[float]]]) -> str:
    """What summarize_gpt_review.py prints of (category, scores): category, relative score, ten times the two means.

    It rounds means to three decimals before it divides them, and prints one.
    """
    scores: dict[str, list[Sequence[float]]] = {}
    for category, pair in pairs:
        if category is not None:
            scores.setdefault(category, []).append(pair)
        scores.setdefault("all", []).append(pair)
    printed = []
    for name, of in sorted(scores.items()):
        first, second = (round(x, 3) for x in np.asarray(of, dtype=np.float64).mean(axis=0).tolist())
        relative = round(second / first * 100, 1) if first else float("nan")
        printed.append(f"{name} {relative} {round(first * 10, 1)} {round(second * 10, 1)}\n")
    return "".join(printed)


def read(task: Task, paths: Sequence[Path], plan: Plan) -> Judged:
    """The figures of files of reviews that LLaVA's scripts (or these) wrote: its `tuple`, else `score`, counts, as
    summarize_gpt_review.py has it; of a line with neither the review's first line. Several files are repeats.

    Raises UserError where a file has no review, or none of the task's categories, or another order of the assistants
    than the first, and where no review has two scores.
    """
    problems = Problems()
    questions, files = written.together(task, paths, lambda path: _reviews(task, path, problems), problems)
    for path, reviews in zip(paths[1:], files[1:], strict=True):
        _compare(paths[0], files[0], path, reviews, problems)
    scores = np.full((len(questions), len(files), 2), np.nan)
    categories: dict[str, str | None] = {}
    said = {}
    for draw, reviews in enumerate(files):
        counted = []
        for number, question in enumerate(questions):
            if question not in reviews:
                continue
            category, pair, _ = reviews[question]
            if pair == _UNREAD:
                consequence = "left out" if plan.drop_unparsable else "counted as -1 -1"
                problems.note(f"no two scores in the review's first line: {consequence}", question)
                if plan.drop_unparsable:
                    continue
            scores[number, draw] = pair
            counted.append((category, pair))
            categories.setdefault(question, category)
        said[f"summary_{draw + 1}.txt"] = summary(counted)
    if not (scores >= 0).any():
        raise UserError(f"{written.FLAG} {paths[0]}: no review has two scores")
    return Judged(figures([scores], [categories.get(one) for one in questions], plan.seed), problems, said)


class _Review(NamedTuple):
    category: str | None
    pair: tuple[float, float]
    answers: tuple[str | None, str | None]  # ids of those of assistants 1 and 2


def _compare(
    first: Path,
    of_first: Mapping[str, _Review],
    path: Path,
    reviews: Mapping[str, _Review],
    problems: Problems,
) -> None:
    """Raises UserError where a file has the first one's assistants exchanged; notes reviews of other answers."""
    for question, review in reviews.items():
        ids, others = review.answers, of_first[question].answers if question in of_first else (None, None)
        if None in (*ids, *others) or ids == others:
            continue
        if ids == others[::-1]:
            raise UserError(
                f"{written.FLAG} {path}: its assistants are those of {first} exchanged; give files of one order"
            )
        files = f"the review in {path} is of other answers than that in {first}"
        problems.note(fields.writable(files), question)


def _reviews(task: Task, path: Path, problems: Problems) -> dict[str, _Review]:
    """A file's reviews by question. Of one question's several each counts."""
    found: dict[str, _Review] = {}
    seen: Counter[str] = Counter()
    for one in lines.read_objects(path):
        if not isinstance(one, tuple):
            problems.note(f"not a review: {one.reason}", one.origin)
            continue
        where, line = one
        pair = _written(line)
        if pair is None:
            problems.note("not a review: no two scores", where)
            continue
        question = id = fields.text(line, "question_id") or fields.text(line, "id") or ""
        while question in found:
            seen[id] += 1
            question = f"{id} ({seen[id] + 1})"
        answers = (fields.text(line, "answer1_id"), fields.text(line, "answer2_id"))
        found[question] = _Review(fields.text(line, "category"), pair, answers)
    if not found:
        raise written.no_form(
            task, path, "JSON lines as LLaVA's scripts write them, each with category and tuple"
        )
    own = llava_bench.CATEGORIES[task.name]
    others = sorted({review.category for review in found.values() if review.category})
    if not set(own) & set(others):
        told = f"its categories are {', '.join(others[:5])}" if others else "they have no categories"
        raise UserError(
            f"{written.FLAG} {path}: no reviews of {task.name}, whose categories are {', '.join(own)}; {told}"
        )
    for question, review in found.items():
        if review.category not in own:
            found[question] = review._replace(category=None)
            problems.note("no category of the task in the review: counted among all", question)
    return found


def _written(line: Mapping[str, Any]) -> tuple[float, float] | None:
    said = line.get("tuple", line.get("score"))
    if said is None:
        text = line.get("content", line.get("text"))
        return (score_pair(text) or _UNREAD) if isinstance(text, str) else None
    if not isinstance(said, list) or len(said) != 2:
        return None
    first, second = map(fields.as_number, said)
    if first is None or second is None or not (is_score(first) and is_score(second)):
        return None
    return first, second


JUDGE = Judge(requests, judge, papers="gpt-4-0314", read=read)
