"""Requests as batch files, and results back."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.errors import UserError
from jaxllava.teacher import batches
from jaxllava.teacher.batch_files import Writer, Written, read
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.messages import Answer, Failure, Message, Request
from jaxllava.teacher.settings import Settings
from tests.conftest import png


def asked(number: int, *images: bytes) -> Request:
    return Request(f"k{number}", (Message("user", f"question {number}", images),), max_tokens=9)


def write(requests: Iterable[Request], folder: Path, **how: Any) -> Written:
    writer = Writer("m", folder, **how)
    for request in requests:
        writer.add(request)
    return writer.finish()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def result(identity: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": identity, "response": response, "error": None}


def test_files_hold_every_request_once(tmp_path: Path) -> None:
    requests = [asked(number) for number in range(1, 7)] + [
        asked(3),
        asked(9, b"no picture"),
        asked(8, png(0)),
    ]
    found = write(iter(requests), tmp_path / "out", most_requests=3, limit_name="max_tokens")
    assert [path.name for path in found.files] == [f"batch-0000{i}.jsonl" for i in (1, 2, 3)]
    assert (found.requests, found.repeated) == (9, 1)
    assert [(one.key, one.reason) for one in found.failures] == [("k9", "unreadable picture")]
    whole = [line for path in found.files for line in lines(path)]
    chosen = [*requests[:6], requests[8]]
    assert [line["custom_id"] for line in whole] == [one.identity("m") for one in chosen]
    assert [len(lines(path)) for path in found.files] == [3, 3, 1]
    assert whole[0] == {
        "custom_id": requests[0].identity("m"),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "question 1"}],
            "max_tokens": 9,
            "temperature": 0.0,
        },
    }
    with pytest.raises(UserError, match=r"holds batch-00001\.jsonl of an earlier run"):
        write(requests, tmp_path / "out")


def test_files_stay_below_their_size(tmp_path: Path) -> None:
    requests = [asked(number, png(number, 60)) for number in range(6)] + [asked(7, png(7, 200))]
    found = write(requests, tmp_path, most_bytes=40_000)
    sizes = [path.stat().st_size for path in found.files]
    assert len(sizes) > 1 and max(sizes) <= 40_000 and sum(map(len, map(lines, found.files))) == 6
    assert [one.reason for one in found.failures] == ["too large for a batch file"]


def test_results_in_any_order(tmp_path: Path) -> None:
    requests = [asked(number) for number in range(8)]
    folder = tmp_path / "out"
    write(requests, folder, most_requests=3)
    names = [one.identity("m") for one in requests]
    refusal = result(names[5], "")
    refusal["response"]["body"]["choices"][0]["message"]["refusal"] = "no"
    broken = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    told = [
        *(json.dumps(result(name, f"answer {i}")) for i, name in enumerate(names[:4])),
        json.dumps(result(names[0], "another answer")),  # the same file given twice, or two batches
        json.dumps(refusal),
        json.dumps({"custom_id": names[4], "response": {"status_code": 400, "body": broken}, "error": None}),
        json.dumps({"custom_id": names[0], "response": {"status_code": 500, "body": None}, "error": None}),
        json.dumps(
            {"custom_id": names[6], "response": None, "error": {"code": "batch_expired", "message": ""}}
        ),
        json.dumps(result("f" * 64, "of others")),
        json.dumps(result("mine-1", "of others")),
        "no json",
        "[]",
        json.dumps({"custom_id": 5}),
        "",
    ]
    random.Random(0).shuffle(told)
    (tmp_path / "a.jsonl").write_text("\n".join(told[:7]))
    (tmp_path / "b.jsonl").write_text("\n".join(told[7:]))
    cache = Cache(tmp_path / "cache")
    found = read([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], folder, cache)
    assert (found.answers, found.refused, found.foreign, found.malformed, found.missing) == (4, 1, 2, 3, 1)
    assert found.failures == Counter({"too long for the model": 1, "batch expired": 1})
    assert len(cache) == 5 and cache.get(names[5], "k") == Failure("k", "refused", "no", True, True)
    for i, name in enumerate(names[1:4], 1):
        assert cache.get(name, "k") == Answer("k", f"answer {i}", "stop", 5, 2, kept=True)
    # What is left, and nothing else, goes into the next files.
    settings = Settings("m", cache=tmp_path / "cache")
    ask = lambda teacher: list(teacher.ask(requests))
    told = batches.write(ask, tmp_path / "next", settings, "max_completion_tokens")
    assert told.endswith("of 8 requests 5 are kept, and 0 are repeated")
    (left,) = (tmp_path / "next").glob("*.jsonl")
    assert [line["custom_id"] for line in lines(left)] == [names[4], *names[6:]]
    assert all(line["body"]["max_completion_tokens"] == 9 for line in lines(left))
    told = batches.read([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], folder, settings)
    assert "failed, too long for the model: 1 (HTTP 400 context_length_exceeded: too long)" in told


def test_what_cannot_be_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with pytest.raises(UserError, match=r"holds no batch-\*\.jsonl"):
        read([], tmp_path, cache)
    write([asked(1)], tmp_path)
    with pytest.raises(UserError, match="output and error files"):
        read([tmp_path / "none.jsonl"], tmp_path, cache)


def _read_one(tmp_path: Path, **changed: Any) -> tuple[Any, Cache]:
    """The results of two requests, of which the first has a result like this."""
    requests = [asked(0), asked(1)]
    write(requests, tmp_path / "out")
    path, cache = tmp_path / "results.jsonl", Cache(tmp_path / "cache")
    first, second = (result(one.identity("m"), "text") for one in requests)
    path.write_text(json.dumps(first | changed) + "\n" + json.dumps(second) + "\n")
    return read([path], tmp_path / "out", cache), cache


def test_tokens_that_nobody_can_have_counted_cost_no_answer(tmp_path: Path) -> None:
    body = result("", "text")["response"]["body"]
    body["usage"]["prompt_tokens"] = 2**63
    done, cache = _read_one(tmp_path, response={"status_code": 200, "body": body})
    assert (done.answers, len(cache)) == (2, 2)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"response": None, "error": {"code": "batch_expired"}}, "batch expired"),
        ({"response": None, "error": {"code": "a\nb\ud800"}}, "a b"),
        ({"response": None, "error": {"code": "9" * 5000}}, "no response"),
        ({"response": None, "error": {"code": ["a"]}}, "no response"),
        ({"response": {"status_code": 10**30, "body": {}}}, "HTTP 500"),
        ({"response": {"status_code": 200, "body": {"error": {"code": "9" * 5000}}}}, "HTTP 500"),
    ],
)
def test_a_failure_has_a_reason_that_can_be_counted(tmp_path: Path, changed: dict, reason: str) -> None:
    done, _ = _read_one(tmp_path, **changed)
    assert (done.answers, dict(done.failures), done.missing) == (1, {reason: 1}, 0)


def test_batch_files_that_are_folders_are_said(tmp_path: Path) -> None:
    (tmp_path / "out/batch-00001.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"batch-00001\.jsonl: cannot be read"):
        read([], tmp_path / "out", Cache(tmp_path))
