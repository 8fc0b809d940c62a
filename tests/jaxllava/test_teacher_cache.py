"""Answers on disk."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from input_pipeline.errors import UserError
from jaxllava.teacher.cache import FILE, Cache
from jaxllava.teacher.messages import Answer

A, B = "a" * 64, "b" * 64


def test_the_first_answer_is_the_one(tmp_path: Path) -> None:
    one, two = Cache(tmp_path / "new" / "folder"), Cache(tmp_path / "new" / "folder")
    first = Answer("k", 'said "so"\0 \u2028', "length", 3, 4)
    assert one.get(A, "k") is None and A not in one
    assert one.put(A, first) == first
    assert two.put(A, Answer("other", "later")) == Answer("other", first.text, "length", 3, 4)
    assert two.get(A, "mine") == Answer("mine", first.text, "length", 3, 4, kept=True)
    assert A in two and B not in two and len(two) == 1


def test_threads_share_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def put(start: int) -> None:
        for i in range(start, start + 50):
            cache.put(f"{i:064x}", Answer("k", str(i)))
            assert cache.get(f"{i:064x}", "k") is not None

    threads = [threading.Thread(target=put, args=(25 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 175


def test_processes_open_one_at_the_same_moment(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from jaxllava.teacher.cache import Cache\n"
        "from jaxllava.teacher.messages import Answer\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "for i in range(100): cache.put(f'{i:064x}', Answer('k', sys.argv[3]))\n"
    )
    import time

    at = str(time.time() + 1.5)
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), at, str(i)]) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(Cache(tmp_path)) == 100


def test_what_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        Cache(tmp_path / "file")
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match=r"answers\.sqlite: cannot be used"):
        Cache(tmp_path)
    other = Cache(tmp_path / "other")
    other._connection.execute("PRAGMA user_version=7")
    with pytest.raises(UserError, match="another version"):
        Cache(tmp_path / "other")


def _damaged(folder: Path, script: str) -> Path:
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection, connection:
        connection.executescript(script)
    return folder


LOOSE = (
    "CREATE TABLE answers (identity BLOB, text, finish, prompt_tokens, new_tokens); PRAGMA user_version = 1;"
)


@pytest.mark.parametrize(
    "row",
    [
        "NULL, 'stop', 1, 1",
        "'a', 'ended', 1, 1",
        "'a', 'stop', -1, 1",
        "'a', 'stop', 1, 'b'",
        "x'41', 'stop', 1, 1",
    ],
)
def test_a_row_that_is_no_answer_is_said(tmp_path: Path, row: str) -> None:
    _damaged(tmp_path, f"{LOOSE} INSERT INTO answers VALUES (x'{A}', {row});")
    with pytest.raises(UserError, match=r"answers\.sqlite: cannot be used \(a row of it is no answer\)"):
        Cache(tmp_path).get(A, "k")


def test_a_file_whose_error_holds_its_bytes_is_said(tmp_path: Path) -> None:
    _damaged(tmp_path, LOOSE)
    data = (tmp_path / FILE).read_bytes()
    assert b"tableanswersanswers" in data
    data = data.replace(b"tableanswersanswers", b"table\xcbnswersanswers").replace(
        b"CREATE TABLE", b"CREATE TAXLE"
    )
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=r"answers\.sqlite: cannot be used"):
        Cache(tmp_path).get(A, "k")


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    _damaged(tmp_path, "PRAGMA user_version = 1;")
    with pytest.raises(UserError, match=r"no such table"):
        len(Cache(tmp_path))
