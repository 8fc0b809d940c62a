"""Answers on disk: what was asked once is not asked again.

A SQLite file with a write-ahead log. An answer is in it before anyone is told of it, so that a process may be killed at
any moment; several processes of one machine may use one folder, and agree on the answer that came first. SQLite's log
needs a disk of this machine: not one that is mounted over a network.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

from input_pipeline.errors import UserError, in_one_line
from jaxllava.teacher.messages import Answer

FILE = "answers.sqlite"
_VERSION = 1
_WAIT = 60.0  # seconds, for other processes that write
_ERRORS = (sqlite3.Error, UnicodeError)  # the message of a damaged file may hold bytes of it
_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    identity BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL
) WITHOUT ROWID"""


class Cache:
    """Answers by `Request.identity`. Threads may share one; a process that forks opens its own."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where it is missing. Raises UserError where it cannot be used."""
        self.folder = Path(folder)
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--cache {folder}: cannot be made ({error.strerror}); name another folder"
            ) from None
        self._connection = self._opened()

    def _opened(self) -> sqlite3.Connection:
        path = self.folder / FILE
        deadline = time.monotonic() + _WAIT
        while True:
            connection = None
            try:
                connection = sqlite3.connect(
                    path, timeout=_WAIT, isolation_level=None, check_same_thread=False
                )
                # The change to a write-ahead log does not wait for others that make it as well.
                connection.execute("PRAGMA journal_mode=WAL")
                # What is committed survives the death of the process; at a power cut the last answers may be lost.
                connection.execute("PRAGMA synchronous=NORMAL")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version={_VERSION}")
            except _ERRORS as error:
                if connection is not None:
                    connection.close()
                if _is_busy(error) and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise self._unusable(error) from None
            if version not in (0, _VERSION):
                connection.close()
                raise UserError(f"{path}: written by another version of jaxllava; name another --cache")
            return connection

    def get(self, identity: str, key: str) -> Answer | None:
        """The kept answer, told as that of `key`; None where there is none."""
        query = "SELECT text, finish, prompt_tokens, new_tokens FROM answers WHERE identity = ?"
        try:
            with self._lock:
                row = self._connection.execute(query, (bytes.fromhex(identity),)).fetchone()
        except _ERRORS as error:
            raise self._unusable(error) from None
        if row is None:
            return None
        text, finish, *tokens = row
        if not (isinstance(text, str) and finish in ("stop", "length") and all(map(_is_count, tokens))):
            raise self._unusable(ValueError("a row of it is no answer"))
        return Answer(key, *row, kept=True)

    def __contains__(self, identity: str) -> bool:
        return self.get(identity, "") is not None

    def put(self, identity: str, answer: Answer) -> Answer:
        """Keeps an answer. Returns it, or the one that another process kept meanwhile: all use the first."""
        row = (bytes.fromhex(identity), answer.text, answer.finish, answer.prompt_tokens, answer.new_tokens)
        try:
            with self._lock:
                done = self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", row)
                is_first = done.rowcount == 1
        except _ERRORS as error:
            raise self._unusable(error) from None
        if is_first:
            return answer
        first = self.get(identity, answer.key)
        return answer if first is None else replace(first, kept=answer.kept)

    def __len__(self) -> int:
        try:
            with self._lock:
                return self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        except _ERRORS as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _unusable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder / FILE}: cannot be used ({in_one_line(error)}); is the disk full, not of this machine, or "
            "the file damaged? Free it or name another --cache"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
