"""What goes to a teacher and comes from it under test: prompts, answers, a provider's batch results, the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import fuzz_records as draw
from benchmarks.fuzz_kind import Kind, Wrong
from input_pipeline.instruct import checks, parse, posts, prompts
from input_pipeline.sources import media
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.rejected import Rejected
from jaxllava.teacher import batch_files, cache
from jaxllava.teacher.messages import Answer

_IN_BLOCKS = ("conversation", "complex", "audience_conversation")  # kinds of answers
_REQUESTS = 30  # of a batch, and answers of a cache


def _identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


# --- prompts -----------------------------------------------------------------------------------------------


def _prompt(rng: Random) -> dict[str, Any]:
    return {
        "system": draw.words(rng, 30),
        "examples": [[draw.words(rng), draw.words(rng)] for _ in range(rng.randint(0, 3))],
    }


def _as_prompts(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    row = rows[0] if isinstance(rows[0], dict) else {}
    encode = lambda value: (value if isinstance(value, str) else str(value)).encode("utf-8", "surrogatepass")
    made = {}
    if "system" in row:
        made["conversation/system_message.txt"] = encode(row["system"])
    pairs = row.get("examples")
    for number, pair in enumerate(pairs if isinstance(pairs, list) else []):
        parts = pair if isinstance(pair, list) else [pair]
        for suffix, part in zip(("caps", "conv"), parts, strict=False):
            made[f"conversation/{number:03d}_{suffix}.txt"] = encode(part)
    return made or {"conversation/notes.txt": b""}


def _read_prompts(path: Path, library: media.Library) -> Iterator[Any]:
    yield from prompts.load(path.parents[1], ["conversation"]).values()


# --- what a teacher answers --------------------------------------------------------------------------------


def _answer(rng: Random) -> dict[str, Any]:
    said = lambda most: " ".join(
        rng.choices(("The", "dog", "runs", "near", "a", "red", "house", "today"), k=most)
    )
    return {"pairs": [{"question": f"{said(6)} {n}?", "answer": said(30)} for n in range(rng.randint(1, 4))]}


def _as_answer(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    row = rows[0] if isinstance(rows[0], dict) else {}
    pairs = row.get("pairs")
    found = [
        pair if isinstance(pair, dict) else {"answer": pair}
        for pair in (pairs if isinstance(pairs, list) else [])
    ]
    text = "\n".join(str(pair.get("answer")) for pair in found)
    if layout in _IN_BLOCKS:
        text = parse.write([parse.Pair(str(one.get("question")), str(one.get("answer"))) for one in found])
    if rng.random() < 0.2:
        text = f"```text\n{text}\n```"
    return {"answer.txt": text.encode("utf-8", "surrogatepass")}


def _read_answer(kind: str, path: Path, library: media.Library) -> Iterator[Any]:
    text = path.read_bytes().decode("utf-8", "replace")  # no other text comes out of a teacher's answers
    known = checks.Known("A dog runs. 3 people.", frozenset({"An example."}))
    with contextlib.suppress(parse.Unreadable):
        parse.pairs(text) if kind in _IN_BLOCKS else parse.plain(text)
    found = checks.read(text, "stop", {**checks.KINDS, **posts.RULES}[kind], known, "Describe it.")
    if isinstance(found, str):
        yield Rejected("answers:1", "", "fields", found)
        return
    if not all(pair.question.strip() and pair.answer.strip() for pair in found):
        raise Wrong(f"an empty part: {found}")
    if kind in _IN_BLOCKS and parse.pairs(parse.write(found)) != found:
        raise Wrong(f"not read again as it was: {found}")
    yield from found[:1]


def _pairs_of(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return 1, len(items)


# --- batch results -----------------------------------------------------------------------------------------


def _result(rng: Random) -> dict[str, Any]:
    """A line of an output or error file. Now and then two are of one request."""
    row = {
        "id": "batch_req_1",
        "custom_id": _identity(rng.randrange(_REQUESTS)),
        "error": None,
        "response": None,
    }
    pick = rng.random()
    if pick < 0.1:
        return row | {"error": {"code": "batch_expired", "message": "It took too long."}}
    body: dict[str, Any] = {
        "error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}
    }
    if pick > 0.2:
        said = {"role": "assistant", "content": draw.words(rng)}
        body = {
            "choices": [{"index": 0, "message": said, "finish_reason": rng.choice(("stop", "length"))}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        }
    return row | {"response": {"status_code": 200 if pick > 0.2 else 429, "request_id": "r", "body": body}}


def _read_results(path: Path, library: media.Library) -> Iterator[Any]:
    work = Path(tempfile.mkdtemp(dir=path.parent))
    kept = cache.Cache(work)
    try:
        named = "".join(json.dumps({"custom_id": _identity(number)}) + "\n" for number in range(_REQUESTS))
        (work / "batch-00001.jsonl").write_text(named)
        done = batch_files.read([path], work, kept)
        malformed, foreign, ours = _sorted(path.read_bytes())
        if (done.malformed, done.foreign) != (malformed, foreign):
            raise Wrong(f"{malformed} lines are malformed and {foreign} foreign: {done}")
        if done.answers + done.failures.total() != len(set(ours)) or done.missing != _REQUESTS - len(
            set(ours)
        ):
            raise Wrong(f"{len(set(ours))} of {_REQUESTS} requests have a result: {done}")
        if len(kept) != done.answers:
            raise Wrong(f"{len(kept)} answers are kept: {done}")
        yield from filter(None, (kept.get(_identity(number), "k") for number in range(_REQUESTS)))
        for reason, count in done.failures.items():
            if "\n" in reason or len(reason) > 200 or not reason.strip():
                raise Wrong(f"no reason that can be printed: {reason!r}")
            reason.encode()
            yield Passed(str(path), count, "failed")
        for reason, count in (
            ("malformed", malformed),
            ("foreign", foreign),
            ("of a request that has a result already", len(ours) - len(set(ours))),
        ):
            yield Passed(str(path), count, reason)
    finally:
        kept.close()
        shutil.rmtree(work)


def _sorted(data: bytes) -> tuple[int, int, list[str]]:
    """How many lines are malformed, and foreign, and whose the others are."""
    known = {_identity(number) for number in range(_REQUESTS)}
    malformed, names = 0, []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            names.append(json.loads(line)["custom_id"])
        except (ValueError, RecursionError, KeyError, TypeError, IndexError):
            malformed += 1
    texts = [name for name in names if isinstance(name, str)]
    ours = [name for name in texts if name in known]
    return malformed + len(names) - len(texts), len(texts) - len(ours), ours


# --- the cache ---------------------------------------------------------------------------------------------


def _kept(rng: Random) -> dict[str, Any]:
    return {
        "text": draw.words(rng, 200),
        "finish": rng.choice(("stop", "length")),
        "prompt_tokens": 5,
        "new_tokens": 7,
    }


_LOOSE = "CREATE TABLE answers (identity BLOB, text, finish, prompt_tokens, new_tokens)"
_OTHER = "CREATE TABLE answers (identity BLOB PRIMARY KEY, answer TEXT)"


def _as_cache(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / cache.FILE
        if layout == "ours":
            kept = cache.Cache(Path(place))
            for number, row in enumerate(rows):
                if answer := _sound(row):
                    kept.put(_identity(number), answer)
            kept.close()
        else:  # of somebody who made the table otherwise
            with contextlib.closing(sqlite3.connect(file)) as connection, connection:
                connection.execute(_OTHER if layout == "other" else _LOOSE)
                version = rng.choice((0, 1, 1, 1, 2))
                connection.execute(f"PRAGMA user_version={version}")
                for number, row in enumerate(rows if layout == "loose" else []):
                    row = row if isinstance(row, dict) else {}
                    found = [row.get(key) for key in ("text", "finish", "prompt_tokens", "new_tokens")]
                    cells = [_cell(value) for value in found]
                    values = (bytes.fromhex(_identity(number)), *cells)
                    connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", values)
        return {cache.FILE: file.read_bytes()}


def _sound(row: Any) -> Answer | None:
    try:
        answer = Answer("k", row["text"], row["finish"], row["prompt_tokens"], row["new_tokens"])
        answer.text.encode()
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError):
        return None
    is_sound = answer.finish in ("stop", "length") and answer.prompt_tokens == 5 and answer.new_tokens == 7
    return answer if is_sound else None


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bytes | float) or (type(value) is int and abs(value) < 2**63):
        return value
    return repr(value).encode("utf-8", "replace")


def _read_cache(path: Path, library: media.Library) -> Iterator[Any]:
    try:
        kept = cache.Cache(path.parent)
        try:
            found = [kept.get(_identity(number), "k") for number in range(_REQUESTS)]
            new = Answer("k", "new")
            if kept.put("f" * 64, new) != new or kept.get("f" * 64, "k") is None:
                raise Wrong("what was put there is not kept")
            len(kept)
        finally:
            kept.close()
    finally:
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    for answer in found:
        if answer is None:
            yield Passed(str(path), 1, "asked again")
            continue
        counts = (answer.prompt_tokens, answer.new_tokens)
        if not isinstance(answer.text, str) or not all(type(count) is int and count >= 0 for count in counts):
            raise Wrong(f"no answer: {answer}")
        if answer.finish not in ("stop", "length"):
            raise Wrong(f"ended for no known reason: {answer}")
        yield answer


KINDS: dict[str, Kind] = {
    "instruct_prompts": Kind(
        _prompt,
        _read_prompts,
        _as_prompts,
        ("folder",),
        (),
        account=_pairs_of,
        size=1,
        packs=False,
        apart=False,
        refuses=True,
        is_named=True,
    ),
    **{
        f"instruct_answers_{kind}": Kind(
            _answer,
            partial(_read_answer, kind),
            _as_answer,
            (kind,),
            (),
            account=_pairs_of,
            size=1,
            packs=False,
            apart=False,
        )
        for kind in (*_IN_BLOCKS, "detail")
    },
    "teacher_batch_results": Kind(_result, _read_results, size=_REQUESTS, packs=False, is_named=True),
    "teacher_cache": Kind(
        _kept,
        _read_cache,
        _as_cache,
        ("ours", "ours", "ours", "loose", "other"),
        (),
        size=_REQUESTS,
        packs=False,
        refuses=True,
        is_binary=True,
        is_named=True,
    ),
}
