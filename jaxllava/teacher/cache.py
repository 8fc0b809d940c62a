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
from jaxllava.teacher.messages import FINISHES, PAID, Answer, Failure

FILE = "answers.sqlite"
_VERSION = 1
_WAIT = 60.0  # seconds, for other processes that write
_ERRORS = (sqlite3.Error, UnicodeError)  # the message of a damaged file may hold bytes of it
_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    identity BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL
) WITHOUT ROWID"""
_PLACES = "CREATE TABLE IF NOT EXISTS places (model TEXT PRIMARY KEY, place TEXT NOT NULL)"


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
                connection.execute(_PLACES)
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

    def get(self, identity: str, key: str) -> Answer | Failure | None:
        """What is kept, told as that of `key`; None where nothing is."""
        query = "SELECT text, finish, prompt_tokens, new_tokens FROM answers WHERE identity = ?"
        try:
            with self._lock:
                row = self._connection.execute(query, (bytes.fromhex(identity),)).fetchone()
        except _ERRORS as error:
            raise self._unusable(error) from None
        if row is None:
            return None
        text, finish, *tokens = row
        if not (isinstance(text, str) and finish in (*FINISHES, *PAID) and all(map(_is_count, tokens))):
            raise self._unusable(ValueError("a row of it is no answer"))
        if finish in PAID:
            return Failure(key, finish, text, is_final=True, is_paid=True)
        return Answer(key, *row, kept=True)

    def __contains__(self, identity: str) -> bool:
        return self.get(identity, "") is not None

    def put(self, identity: str, result: Answer | Failure) -> Answer | Failure:
        """Keeps an answer, or a failure that was paid for (its reason in the place of `finish`).

        Returns it, or what another process kept meanwhile: all use the first.
        """
        if isinstance(result, Answer):
            said = (result.text, result.finish, result.prompt_tokens, result.new_tokens)
        else:
            said = (result.detail, result.reason, 0, 0)
        row = (bytes.fromhex(identity), *said)
        try:
            with self._lock:
                done = self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", row)
                is_first = done.rowcount == 1
        except _ERRORS as error:
            raise self._unusable(error) from None
        if is_first:
            return result
        first = self.get(identity, result.key)
        if isinstance(first, Answer):  # asked for here all the same
            return replace(first, kept=False)
        return first or result

    def first_place(self, model: str, place: str) -> str:
        """Where this model's answers came from when it was first asked; that is here if it never was."""
        try:
            with self._lock:
                self._connection.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (model, place))
                row = self._connection.execute("SELECT place FROM places WHERE model = ?", (model,))
                return row.fetchone()[0]
        except _ERRORS as error:
            raise self._unusable(error) from None

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
