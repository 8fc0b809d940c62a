"""The memory of a download folder: who works in it, what became of every URL, and which names are taken.

`download.jsonl` is the truth: one line per URL and outcome, only ever appended to. From it each run builds a
SQLite file of hashes, so that millions of URLs are known without being held in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.download.wanted import MAX_URL, safe_name, stem_of
from input_pipeline.errors import UserError
from input_pipeline.sources.media import IMAGE_SUFFIXES

LOG = "download.jsonl"
NAME_TAKEN = "name belongs to another URL"
OTHER_NAME = "same URL as another name"
OTHER_NAME_TAKEN = "further name belongs to another URL"

_STATUSES = ("ok", "gone", "refused", "failed")
_OF_NAMES = (OTHER_NAME, OTHER_NAME_TAKEN)  # lines that say nothing of the URL itself
_WITHOUT_NAME = (NAME_TAKEN, OTHER_NAME_TAKEN)  # lines whose name was not given to the URL
_LOCK = ".download.lock"
_INDEX = ".download.sqlite"
_MAX_LINE = 64 * 1024
_BATCH = 10_000
_PLACE = re.compile(r"(?i)https?://([^/?#]*)([^#]*)")
_SCHEMA = """
CREATE TABLE urls (key BLOB PRIMARY KEY, status TEXT, name TEXT, policy TEXT) WITHOUT ROWID;
CREATE TABLE stems (stem TEXT PRIMARY KEY, key BLOB) WITHOUT ROWID;
CREATE TABLE aliases (url TEXT, key BLOB, name TEXT);
"""


class DiskError(Exception):
    """The folder cannot be written to: no URL is to blame, and no other will fare better."""


@dataclass(frozen=True)
class Entry:
    """What is known of a URL. Status 'asked' is one that this run has taken up."""

    status: str
    name: str
    policy: str


def url_key(url: str) -> bytes:
    """A hash that is one for a URL by http and by https, whatever comes after a '#'."""
    url = short_url(url)  # as it is read from the log
    match = _PLACE.match(url.strip())
    text = match[1].lower() + match[2] if match else url
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def short_url(url: str) -> str:
    """Returns the URL as the log holds it: one that is too long is cut, and marked with a hash."""
    if len(url) <= MAX_URL:
        return url
    return f"{url[:200]}~{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"


class Ledger:
    """One run's hold on a folder. A context manager; all methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which is made if it is missing, and reads its log.

        Raises:
            UserError: another run works in the folder, or it cannot be written to.
        """
        self.folder = folder
        self._mutex = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written to ({error.strerror})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(f"{folder}: another download works in this folder; wait for its end") from None
        except OSError as error:
            os.close(self._lock)
            raise UserError(f"{folder}: cannot be locked ({error.strerror}); use a local folder") from None
        try:
            self._log = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self.repaired = _repair(self._log)
            self._index = self._load()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise UserError(f"{folder}: cannot be written to ({error})") from None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._index.close()
            for suffix in ("", "-journal"):
                (self.folder / (_INDEX + suffix)).unlink(missing_ok=True)
            os.fsync(self._log)
            os.close(self._log)
            os.close(self._lock)  # which gives the lock back

    def get(self, key: bytes) -> Entry | None:
        """Returns what is known of a URL."""
        with self._mutex:
            row = self._index.execute(
                "SELECT status, name, policy FROM urls WHERE key = ?", (key,)
            ).fetchone()
        return Entry(*row) if row else None

    def claim(self, key: bytes, name: str) -> bool:
        """Makes a name, less its suffix, the URL's own; False where it is another's."""
        stem = stem_of(name)
        with self._mutex:
            self._index.execute("INSERT OR IGNORE INTO stems VALUES (?, ?)", (stem, key))
            return self._index.execute("SELECT key FROM stems WHERE stem = ?", (stem,)).fetchone()[0] == key

    def mark(self, key: bytes, name: str, status: str = "asked") -> None:
        """Remembers, for this run, what became of a URL."""
        with self._mutex:
            self._index.execute("INSERT OR REPLACE INTO urls VALUES (?, ?, ?, '')", (key, status, name))

    def alias(self, url: str, key: bytes, name: str) -> None:
        """Remembers that a picture is wanted under a further name."""
        with self._mutex:
            self._index.execute("INSERT INTO aliases VALUES (?, ?, ?)", (url, key, name))

    def link(self) -> int:
        """Gives the pictures that are there their further names; returns how many. Raises DiskError."""
        query = "SELECT url, aliases.name, urls.name FROM aliases JOIN urls USING (key) WHERE status = 'ok'"
        done = 0
        for url, name, stored in self._index.execute(query):
            name = stem_of(name) + PurePosixPath(stored).suffix
            try:
                os.link(self.folder / stored, self.folder / name)
            except FileExistsError:
                continue
            except FileNotFoundError:
                continue  # someone took it away meanwhile; the next run asks for it
            except OSError:  # a file system without links
                try:
                    shutil.copyfile(self.folder / stored, self.folder / f"{name}.part")
                    (self.folder / f"{name}.part").replace(self.folder / name)
                except OSError as error:
                    raise DiskError(f"{self.folder / name}: {error.strerror}") from None
            self.write(url, name, "ok", reason=OTHER_NAME)
            done += 1
        return done

    def find(self, name: str) -> str | None:
        """Returns the name of the picture in the folder that has this name, or its stem and another suffix."""
        stem = stem_of(name)
        for candidate in dict.fromkeys((name, *(stem + suffix for suffix in IMAGE_SUFFIXES))):
            if candidate.lower().endswith(IMAGE_SUFFIXES) and (self.folder / candidate).is_file():
                return candidate
        return None

    def write(self, url: str, name: str, status: str, **more: Any) -> None:
        """Appends the outcome of a URL to the log. Raises DiskError where that cannot be done."""
        row = {"url": short_url(url), "name": name, "status": status}
        row |= {field: more.get(field) for field in ("http", "bytes", "sha256", "type", "reason")}
        row["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        if more.get("policy"):
            row["policy"] = more["policy"]
        line = json.dumps(row).encode() + b"\n"
        with self._mutex:
            try:
                written = os.write(self._log, line)  # one call, so that a killed process leaves whole lines
            except OSError as error:
                raise DiskError(f"{self.folder / LOG}: {error.strerror}") from None
        if written != len(line):
            raise DiskError(f"{self.folder / LOG}: no space left")

    def _load(self) -> sqlite3.Connection:
        path = self.folder / _INDEX
        path.unlink(missing_ok=True)
        index = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # It is made anew by each run, so nothing is lost where it is.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            index.execute(f"PRAGMA {pragma}")
        index.executescript(_SCHEMA)
        rows = _rows(self.folder / LOG)
        while batch := list(itertools.islice(rows, _BATCH)):
            urls = [
                (key, status, name, policy)
                for key, status, name, policy, why in batch
                if why not in _OF_NAMES
            ]
            stems = [(stem_of(name), key) for key, _, name, _, why in batch if why not in _WITHOUT_NAME]
            index.execute("BEGIN")
            index.executemany("INSERT OR REPLACE INTO urls VALUES (?, ?, ?, ?)", urls)
            index.executemany("INSERT OR IGNORE INTO stems VALUES (?, ?)", stems)
            index.execute("COMMIT")
        index.execute("BEGIN")  # never ended: what this run adds is for this run
        return index


def _repair(log: int) -> bool:
    """Cuts a last line that has no end, as a full disk or a power cut may leave it. True where there was one."""
    end = os.fstat(log).st_size
    at = end
    while at > 0:
        start = max(0, at - 4096)
        block = os.pread(log, at - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            at = start + newline + 1
            break
        at = start
    if at == end:
        return False
    os.ftruncate(log, at)
    return True


def _rows(path: Path) -> Iterator[tuple[bytes, str, str, str, object]]:
    """Yields (key, status, name, policy, reason) of each line that is sound."""
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE):
            try:
                row = json.loads(line)
                url, name, status, policy = row["url"], row["name"], row["status"], row.get("policy") or ""
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # whoever broke the line, its URL is asked once more
            if status in _STATUSES and all(isinstance(text, str) for text in (url, name, policy)):
                # Someone may have edited the file: SQLite takes no lone surrogates, the folder no foreign paths.
                yield url_key(url), status, safe_name(name), ascii(policy).strip("'"), row.get("reason")
