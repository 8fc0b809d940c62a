"""MM-Vet's grader (mm-vet_evaluator.py of yuweihao/MM-Vet): a grade of 0 to 1 by examples; total and capabilities.

Its prompt with the examples is read from the release's own mm-vet_evaluator.py, which is parsed, never run.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator

import numpy as np

from input_pipeline.errors import UserError, in_one_line
from input_pipeline.sources import fields
from jaxllava.evaluate.judging import spread
from jaxllava.evaluate.judging.protocol import Ask, Case, Judge, Judged, Plan, text_of, until_readable
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.tasks.llava_layout import first_of
from jaxllava.teacher.messages import Answer, Message, Request

MAX_TOKENS = 3
_AGAIN = "\nPredict the correctness of the answer (digit): "  # an interface string of the grader
ROUNDS = 5  # whose texts the grader reads; its sixth answer it does not
_FILE = "mm-vet_evaluator.py"


def prompt(case: Case) -> str:
    """The grader's prompt. Raises UserError that says where the file belongs."""
    folders = [case.root / name for name in ("mm-vet", "mm-vet/mm-vet", "mmvet/mm-vet", "mmvet")]
    path = next((found for folder in [*folders, case.root] if (found := first_of(folder, _FILE))), None)
    if path is None:
        raise UserError(
            f"task {case.task.name}: the grader's prompt is not there; put {_FILE} of "
            f"https://github.com/yuweihao/MM-Vet (Apache-2.0) into {folders[0]}"
        )
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); get it anew") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not Python ({in_one_line(error)}); get it anew") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            named = any(isinstance(target, ast.Name) and target.id == "prompt" for target in node.targets)
            value = node.value.value
            if named and isinstance(value, str) and value.strip():
                return fields.writable(value)
    raise UserError(f"{path}: assigns no text to `prompt`; get MM-Vet's own {_FILE}")


def grade(text: str) -> float | None:
    """The grade in an answer as the grader reads it: what stands before the first blank, in [0, 1]."""
    try:
        value = float(text.split(" ")[0].strip())
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _key(case: Case, row: Answered, draw: int) -> str:
    return f"{case.task.name}/{row.id}/{draw}"


def requests(case: Case, plan: Plan) -> Iterator[Request]:
    examples = prompt(case)
    for row in case.rows:
        if row.truth is None:
            continue
        truth = row.truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        text = examples + "\n" + " | ".join([row.meta["prompt"], truth, row.answer or "", ""])
        for draw in range(plan.repeats):
            yield Request(_key(case, row, draw), (Message("user", text),), MAX_TOKENS, 0.0, draw=draw)


def _again(request: Request, number: int, plan: Plan) -> Request:
    """The grader's rounds differ by their temperature; where all have one, by their draws."""
    (message,) = request.messages
    further = 0 if plan.temperature is None else number * plan.repeats
    return dataclasses.replace(
        request,
        key=f"{request.key}/again {number}",
        messages=(Message("user", message.text + _AGAIN),),
        temperature=0.5 * (number - 1),
        draw=request.draw + further,
    )


def judge(case: Case, ask: Ask, plan: Plan) -> Judged:
    problems = Problems()
    readable = lambda text: grade(text) is not None
    again = lambda request, number: _again(request, number, plan)
    said = until_readable(ask, requests(case, plan), again, readable, ROUNDS)
    rows = [row for row in case.rows if row.truth is not None]
    for row in case.rows:
        if row.truth is None:
            problems.note("no true answer: not judged", row.id)
    grades = np.full((len(rows), plan.repeats), np.nan)
    kept: dict[str, dict[str, list[object]]] = {}
    consequence = "left out" if plan.drop_unparsable else "counted as 0"
    for number, row in enumerate(rows):
        written = kept.setdefault(f"v1_{row.id}", {"content": [], "score": []})
        for draw in range(plan.repeats):
            answer = said[_key(case, row, draw)]
            text = text_of(answer, row.id, problems)
            if not isinstance(answer, Answer) or text is None:
                continue
            value = grade(text)
            if value is None:
                problems.note(f"no grade from 0 to 1, asked {ROUNDS} times: {consequence}", row.id)
                value = np.nan if plan.drop_unparsable else 0.0
            grades[number, draw] = value
            written["content"].append(text)
            written["score"].append(None if np.isnan(value) else value)
    named = lambda name, values: spread.estimate(spread.mean, [values * 100], name=name, seed=plan.seed)
    found = {"total": named("total", grades)}
    for capability in sorted({str(one) for row in rows for one in row.meta.get("capability", ())}):
        members = [at for at, row in enumerate(rows) if capability in row.meta.get("capability", ())]
        if np.isfinite(grades[members]).any():
            found[capability] = named(capability, grades[members])
    return Judged(found, problems, {"grades.json": json.dumps(kept, indent=4) + "\n"})


JUDGE = Judge(
    requests,
    judge,
    papers="gpt-4-0613",
    again=f"a grade that cannot be read is asked again, {ROUNDS} times in all",
)
