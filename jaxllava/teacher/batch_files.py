"""Requests as files for a provider's batch service (OpenAI's JSONL), and its results back into the cache.

Batches cost less and take hours. After `read` the same requests are answered from the cache.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.endpoint import PictureError, chat_body
from jaxllava.teacher.messages import Answer, Failure, Request
from jaxllava.teacher.replies import Again, read_body, read_error
from jaxllava.teacher.settings import LIMIT_NAMES

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one file, at OpenAI
URL = "/v1/chat/completions"
_LONGEST_REASON = 60  # characters
_IDENTITY = re.compile(r"[0-9a-f]{64}")


@dataclass
class Written:
    """requests: all that were given; repeated: equal to another; failures: not to be written. The rest: `files`."""

    files: list[Path] = field(default_factory=list)
    requests: int = 0
    repeated: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Results:
    """answers, refused: now in the cache; failures: requests that failed, by reason; details: what was said of the
    first of each reason; foreign: lines of other requests than those of the folder; malformed: lines that are none of
    a batch's; missing: requests of the folder without a result.
    """

    answers: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    foreign: int = 0
    malformed: int = 0
    missing: int = 0


class Writer:
    """Writes batch-00001.jsonl, ... into a folder: each request a line, named by its identity, each once.

    Args: limit_name: what the model calls the limit of an answer. Raises UserError where the folder holds batch files
    already, or cannot be written.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        limit_name: str = LIMIT_NAMES[0],
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.done = Written()
        self._model, self._folder, self._limit_name = model, Path(folder), limit_name
        self._most_requests, self._most_bytes = most_requests, most_bytes
        self._seen: set[bytes] = set()  # 32 bytes of each request: a name may stand in a batch once
        self._lines: list[bytes] = []
        self._size = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        if files := sorted(self._folder.glob("batch-*.jsonl")):
            raise UserError(
                f"{folder}: holds {files[0].name} of an earlier run; read its results, or name another folder"
            )

    def add(self, request: Request) -> None:
        """One more request."""
        self.done.requests += 1
        identity = request.identity(self._model)
        if bytes.fromhex(identity) in self._seen:
            self.done.repeated += 1
            return
        try:
            line = _line(request, identity, self._model, self._limit_name)
        except (PictureError, UnicodeEncodeError) as error:
            reason = "unreadable picture" if isinstance(error, PictureError) else "unreadable text"
            self.done.failures.append(Failure(request.key, reason, str(error)))
            return
        if len(line) > self._most_bytes:
            self.done.failures.append(
                Failure(request.key, "too large for a batch file", f"{len(line)} bytes")
            )
            return
        self._seen.add(bytes.fromhex(identity))
        if len(self._lines) >= self._most_requests or self._size + len(line) > self._most_bytes:
            self.finish()
        self._lines.append(line)
        self._size += len(line)

    def finish(self) -> Written:
        """Writes what is left."""
        if self._lines:
            try:
                self.done.files.append(_put(self._folder, len(self.done.files) + 1, self._lines))
            except OSError as error:
                raise self._unusable(error) from None
        self._lines, self._size = [], 0
        return self.done

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"{self._folder}: batch files cannot be written ({error.strerror}); name another folder"
        )


def _line(request: Request, identity: str, model: str, limit_name: str) -> bytes:
    body = chat_body(request, model, limit_name)
    whole = {"custom_id": identity, "method": "POST", "url": URL, "body": body}
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def _put(folder: Path, number: int, lines: list[bytes]) -> Path:
    path = folder / f"batch-{number:05}.jsonl"
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        file.writelines(lines)
    os.replace(unfinished, path)  # noqa: PTH105
    return path


def read(results: Iterable[Path], folder: Path, cache: Cache) -> Results:
    """Reads output and error files, in any order, also twice; answers go into the cache.

    Args: folder: that of a `Writer`, which says whose results these may be. Raises UserError where a file cannot be
    read, or the folder holds no batch files.
    """
    left = _identities(Path(folder))
    ours = set(left)
    failed: dict[str, str] = {}
    done = Results()
    for path in results:
        try:
            with Path(path).open("rb") as file:
                for line in file:
                    if line.strip():
                        _take(line, ours, left, failed, cache, done)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); name the batch's output and error files"
            ) from None
    # What failed in one batch may have been answered in another.
    done.failures = Counter(reason for identity, reason in failed.items() if identity in left)
    done.missing = len(left) - done.failures.total()
    return done


def _take(
    line: bytes, ours: set[str], left: set[str], failed: dict[str, str], cache: Cache, done: Results
) -> None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    identity = told.get("custom_id") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(identity, str):
        done.malformed += 1
        return
    if identity not in ours:
        done.foreign += 1
        return
    response, error = told.get("response"), told.get("error")
    if isinstance(response, dict):
        status, body = response.get("status_code"), response.get("body")
        status = status if isinstance(status, int) and 100 <= status < 600 else 500
        reply = read_body("", body) if status == 200 else read_error("", status, body)
        reason = f"HTTP {status}"
    else:  # never asked: "batch_expired", ...
        code = error.get("code") if isinstance(error, dict) else None
        reply, reason = None, _reason(code)
    if isinstance(reply, Answer) or (isinstance(reply, Failure) and reply.is_paid):
        if identity in left:
            cache.put(identity, reply)
            left.discard(identity)
            done.answers += isinstance(reply, Answer)
            done.refused += isinstance(reply, Failure)
        return
    if isinstance(reply, Failure | Again):
        reason = reply.reason
    failed[identity] = reason
    if detail := getattr(reply, "detail", "") or getattr(reply, "why", ""):
        done.details.setdefault(reason, detail)


def _reason(code: object) -> str:
    """An error's code in words that can be counted and printed."""
    told = " ".join(re.findall(r"[A-Za-z0-9]+", code)) if isinstance(code, str) else ""
    return told if 0 < len(told) <= _LONGEST_REASON else "no response"


def _identities(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in sorted(folder.glob("batch-*.jsonl")):
        try:
            with path.open("rb") as file:
                for line in file:
                    # The name stands in front; the rest may be megabytes of pictures.
                    match = _IDENTITY.search(line[:128].decode("ascii", "replace"))
                    if match:
                        found.add(match[0])
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); write the batch files again"
            ) from None
    if not found:
        raise UserError(
            f"{folder}: holds no batch-*.jsonl; name the folder that the batch files were written to"
        )
    return found
