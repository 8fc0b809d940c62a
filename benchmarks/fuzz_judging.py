"""What judging reads under test: reviewing prompts, others' answers and reviews, our own answers and results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import fuzz_files as files
from benchmarks import fuzz_records as draw
from benchmarks.fuzz_damage import dumps
from benchmarks.fuzz_kind import Kind, Wrong
from input_pipeline.sources import fields, media
from input_pipeline.sources.lines import Passed
from jaxllava.evaluate import benchmark_table, benchmarks
from jaxllava.evaluate.judging import JUDGES, kept, mm_vet, relative, run
from jaxllava.evaluate.judging.protocol import Case, Plan
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import TASKS
from jaxllava.evaluate.tasks.task import Item, Questions

_BENCH, _FILM = TASKS["llava_bench_wild"], TASKS["msvd_qa"]
_ASKED = 30  # questions, and lines of a file
_CATEGORIES = ("llava_bench_conv", "llava_bench_detail", "llava_bench_complex")
_OF = {"checkpoint": "weights", "type of weights": "float32", "template": "v1"}


def _questions() -> Questions:
    meta = lambda n: {"category": _CATEGORIES[n % 3], "context": "A hill.", "line": {"question_id": n}}
    return Questions([Item(str(n), f"What, {n}?", truth="A hill.", meta=meta(n)) for n in range(_ASKED)], {})


def _named(name: str, write: files.Write = files.as_json) -> files.Write:
    """The same content in a file of another name."""
    return lambda rng, rows, layout: dict(zip([name], write(rng, rows, layout).values(), strict=True))


def _one(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    return {"a.json": dumps(rows[0], ensure_ascii=rng.random() < 0.8)}


def _any(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return 0, 0


def _asked_of(case: Case, name: str) -> None:
    """All that a judge is asked can be sent, and each thing has a key of its own."""
    found = list(JUDGES[name].requests(case, Plan()))
    if len({one.key for one in found}) < len(found):
        raise Wrong("two requests have the same key")
    for one in found:
        if not all(isinstance(message.text, str) for message in one.messages):
            raise Wrong(f"no text: {one}")
        "".join(message.text for message in one.messages).encode()


# --- prompts of judges -------------------------------------------------------------------------------------


def _rules(rng: Random) -> dict[str, Any]:
    return {name: {"role": "Assistant", "prompt": draw.words(rng, 30)} for name in _CATEGORIES}


def _read_rules(path: Path, library: media.Library) -> Iterator[Any]:
    rows = [
        Answered(item.id, item.truth, "It.", meta={**item.meta, "prompt": "?"}) for item in _questions().items
    ]
    case = Case(_BENCH, rows, path.parent)
    _asked_of(case, _BENCH.name)
    for rule in relative.rules(case).values():
        if isinstance(rule, dict) and isinstance(rule.get("prompt"), str):
            yield Answered("rule", None, fields.writable(rule["prompt"]))


def _grader(rng: Random) -> dict[str, Any]:
    return {"prompt": draw.words(rng, 60), "name": "gpt-4-0613", "repeats": 5}


def _as_python(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    row = rows[0] if isinstance(rows[0], dict) else {"junk": rows[0]}
    lines = [f"{key} = {value!r}" for key, value in row.items()]
    code = "\n".join(["import json", "class Grader:", '    """Grades."""', "", *lines, "print(prompt)", ""])
    return {"mm-vet_evaluator.py": code.encode("utf-8", "surrogatepass")}


def _read_grader(path: Path, library: media.Library) -> Iterator[Any]:
    text = mm_vet.prompt(Case(TASKS["mm_vet"], [], path.parent))
    if not text.strip():
        raise Wrong("an empty prompt")
    yield Answered("prompt", None, text)


# --- answers -----------------------------------------------------------------------------------------------


def _llava_answer(rng: Random) -> dict[str, Any]:
    number = rng.randrange(_ASKED)
    return {
        "question_id": number, "prompt": "What?", "text": draw.words(rng), "answer_id": f"a{number}",
        "model_id": "llava-v1.5-7b", "metadata": {},
    }  # fmt: skip


def _read_llava(path: Path, library: media.Library) -> Iterator[Any]:
    found = kept.read(_BENCH, _questions(), path.parents[1])
    is_answer = lambda row: isinstance(row.get("text"), str) and fields.text(row, "question_id") is not None
    yield from _accounted(path, found, is_answer)


def _accounted(path: Path, found: kept.Kept, is_answer: Callable[[dict[str, Any]], bool]) -> Iterator[Any]:
    if len(found.rows) + sum(map(len, found.unanswered.values())) != found.asked:
        raise Wrong(f"{found.asked} are asked for, and others answered or not: {found.unanswered}")
    rows = _lines_of(path)
    sound = sum(row is not None and is_answer(row) for row in rows)
    lost = sum(map(len, found.problems.values()))
    if sound + lost != len(rows):
        raise Wrong(f"{sound} of {len(rows)} lines are answers, {lost} are named as none: {found.problems}")
    _printable(found)
    yield from found.rows
    yield from (Passed(str(path), len(ids), what) for what, ids in found.problems.items())


def _lines_of(path: Path) -> list[dict[str, Any] | None]:
    """What each line of a file holds; None for what is no object."""
    rows = []
    for line in path.read_bytes().split(b"\n"):
        if line.strip(b" \t\r\xef\xbb\xbf"):
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                row = None
            rows.append(row if isinstance(row, dict) else None)
    return rows


def _printable(found: kept.Kept) -> None:
    """All that a report says of answers, and all that a judge is asked of them."""
    told = [found.of, found.problems, found.unanswered]
    json.dumps(told, ensure_ascii=False).encode()
    if any("\n" in name for name in found.of.values()):
        raise Wrong(f"a name that is no line: {found.of}")


def _prediction(rng: Random) -> dict[str, Any]:
    return {
        "id": f"v{rng.randrange(10**9)}",
        "question": draw.words(rng),
        "answer": "cat",
        "pred": draw.words(rng),
    }


def _read_predictions(path: Path, library: media.Library) -> Iterator[Any]:
    found = kept.read_predictions(path)
    _printable(found)
    _asked_of(run.case_of(_FILM, found, path.parent), _FILM.name)
    yield from found.rows
    yield from (Passed(str(path), len(ids), what) for what, ids in found.problems.items())


def _own_answer(rng: Random) -> dict[str, Any]:
    row: dict[str, Any] = {"id": str(rng.randrange(_ASKED))}
    return row | ({"error": "media: gone"} if rng.random() < 0.1 else {"answer": draw.words(rng)})


def _as_answers(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    identity = {**_OF, "questions": benchmarks.questions_digest(_BENCH, _questions())}
    header = {what: {"is": value} for what, value in identity.items()}
    return {f"{_BENCH.name}/answers-0000.jsonl": b"\n".join(map(dumps, [header, *rows])) + b"\n"}


def _read_own(path: Path, library: media.Library) -> Iterator[Any]:
    rows = _lines_of(path)[1:]
    found = kept.read(_BENCH, _questions(), path.parents[1])
    if len(found.rows) + sum(map(len, found.unanswered.values())) != found.asked:
        raise Wrong(f"{found.asked} are asked for, and others answered or not: {found.unanswered}")
    ids = {str(number) for number in range(_ASKED)}
    last = {row["id"]: row for row in rows if row and row.get("id") in list(ids)}
    sound = {name for name, row in last.items() if isinstance(row.get("answer"), str)}
    if gone := sound - {row.id for row in found.rows}:
        raise Wrong(f"answered, and not to be judged: {gone}")
    _printable(found)
    _asked_of(Case(_BENCH, found.rows, _with_rules(path.parent)), _BENCH.name)
    yield from found.rows
    yield Passed(str(path), found.asked - len(found.rows), "not answered")


def _with_rules(folder: Path) -> Path:
    (folder / "rule.json").write_text(json.dumps(_rules(Random(0))))
    return folder


# --- reviews and results -----------------------------------------------------------------------------------


def _review(rng: Random) -> dict[str, Any]:
    pair = [float(rng.randint(1, 10)), float(rng.randint(1, 10))]
    row = {"id": 1, "question_id": rng.randrange(99), "category": rng.choice(_CATEGORIES), "tuple": pair}
    if rng.random() < 0.3:
        del row["tuple"]
    return row | {"content": f"{pair[0]:g} {pair[1]:g}\n{draw.words(rng)}"}


def _read_reviews(path: Path, library: media.Library) -> Iterator[Any]:
    yield from _judged(_BENCH.name, path)


def _judged(name: str, path: Path) -> Iterator[Any]:
    result = run.of_files(TASKS[name], [path], Plan(), "zero-shot")
    text = benchmark_table.table([result], TASKS) + benchmark_table.details(result, TASKS[name])
    text.encode()
    none = sum(found["count"] for what, found in result["problems"].items() if "counted" not in what)
    if any(value["n"] > result["scored"] for value in result["figures"].values()):
        raise Wrong(f"a figure is over more than all {result['scored']}: {result['figures']}")
    json.dumps(result, allow_nan=False)
    yield from (Answered(str(n), None, "") for n in range(result["scored"]))
    yield Passed(str(path), none, "no review")


def _film_review(rng: Random) -> list[Any]:
    said = {"pred": rng.choice(("yes", "no")), "score": rng.randint(0, 5)}
    return [said, {"q": draw.words(rng), "a": "cat", "pred": "dog"}]


def _as_object(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    return {"a.json": dumps({f"v{number}_0": row for number, row in enumerate(rows)})}


def _read_film_reviews(path: Path, library: media.Library) -> Iterator[Any]:
    yield from _judged(_FILM.name, path)


def _result(rng: Random) -> dict[str, Any]:
    found = {"count": 2, "first": ["1", "2"]}
    figures = {"all": {"mean": 80.5, "low": 70.0, "high": 90.0, "n": 3, "unit": "questions"}}
    return {
        "task": _BENCH.name, "setting": "zero-shot", "metric": _BENCH.metric, "judge": "rule-1", "headline": "",
        "judge of the papers": "gpt-4-0314", "ours": "", "figures": figures, "no figures": "", "failures": [],
        "questions": 3, "asked": 3, "answered": 3, "scored": 3, "not answered": {"gone": found}, "rejected": {},
        "problems": {"empty": found}, "tested on": "fixture", "reviews": {"asked": 3, "came": 3, "failed": 0}, **_OF,
        "how": {"repeats": 1, "temperature": 1.0, "max_tokens": 64},
    }  # fmt: skip


def _read_results(path: Path, library: media.Library) -> Iterator[Any]:
    every = benchmarks.gathered([], path.parents[2], like={**_OF, "setting": "zero-shot"})
    text = benchmark_table.table(every, TASKS)
    text.encode()
    for one in every:
        benchmark_table.details(one, TASKS[one["task"]]).encode()
        yield Answered(one["task"], None, text)
    if not every:
        yield Passed(str(path), 1, "of another model")


KINDS: dict[str, Kind] = {
    "judge_rules": Kind(
        _rules, _read_rules, _named("rule.json", _one), ("object",), (), account=_any, size=1, packs=False,
        apart=False, refuses=True, is_named=True,
    ),
    "judge_grader": Kind(
        _grader, _read_grader, _as_python, ("python",), (), account=_any, size=1, packs=False, apart=False,
        refuses=True, is_named=True,
    ),
    "judge_llava_answers": Kind(
        _llava_answer, _read_llava, _named(f"{_BENCH.name}/{kept.LLAVA}"), lines=(), account=_any, size=_ASKED,
        packs=False, refuses=True, is_named=True, names=lambda record: [str(record["question_id"])],
    ),
    "judge_predictions": Kind(
        _prediction, _read_predictions, _named("pred.json"), size=_ASKED, packs=False, refuses=True, is_named=True,
        names=lambda record: [record["id"]],
    ),
    "judge_own_answers": Kind(
        _own_answer, _read_own, _as_answers, ("answers",), (), account=_any, size=_ASKED, packs=False, apart=False,
        refuses=True, is_named=True,
    ),
    "judge_reviews": Kind(_review, _read_reviews, size=_ASKED, packs=False, refuses=True),
    "judge_film_reviews": Kind(
        _film_review, _read_film_reviews, _as_object, ("object",), (), size=_ASKED, packs=False, refuses=True
    ),
    "judge_results": Kind(
        _result, _read_results, _named(f"{_BENCH.name}/judged-rule-1/result.json", _one), ("object",), (),
        account=_any, size=1, packs=False, apart=False, refuses=True, is_named=True,
    ),
}  # fmt: skip
