"""Many requests at once, and processes that are killed: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jaxllava.teacher.cache import Cache
from jaxllava.teacher.messages import Answer, Message, Request
from jaxllava.teacher.remote import Remote
from jaxllava.teacher.settings import Settings
from tests.fake_teacher import KEY, FakeTeacher, Reply, error, said

pytest.importorskip("openai")

RUN = """
import sys
from pathlib import Path
from jaxllava.teacher.messages import Message, Request
from jaxllava.teacher.open import open_teacher
from jaxllava.teacher.settings import Settings

teacher = open_teacher(Settings("teacher-1", in_flight=16, cache=Path(sys.argv[1])))
requests = (Request(f"k{i}", (Message("user", f"question {i}"),), max_tokens=8) for i in range(int(sys.argv[2])))
with open(sys.argv[3], "w") as file:
    for one in teacher.ask(requests):
        print(one.key, one.text, file=file, flush=True)
print("done")
"""


@pytest.mark.parametrize("number", [600, pytest.param(2000, marks=pytest.mark.slow)])
def test_two_hundred_requests_at_a_time(monkeypatch, tmp_path, number: int) -> None:
    rng = random.Random(0)
    faults = [error(500), Reply("cut", "some words"), Reply("malformed", "words"), Reply("no choices")]

    def rule(body: dict[str, Any], tries: int) -> Reply | str:
        if rng.random() < 0.06:
            return rng.choice(faults)
        if said(body) == "question 350" and tries == 0:
            return error(429, "rate_limit_exceeded", retry_after="0.1")
        # The first ones take long enough that all places are taken, also where the machine is busy.
        longest = 3.0 if len(fake.bodies) <= 220 else 0.4
        return Reply(text=f"answer to {said(body)}", seconds=rng.uniform(longest / 2, longest))

    with FakeTeacher(rule) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        cache = Cache(tmp_path)
        teacher = Remote(Settings("m", in_flight=220, attempts=10), cache, 0.01)
        found = list(
            teacher.ask(Request(f"k{i}", (Message("user", f"question {i}"),)) for i in range(number))
        )
    assert {one.key: one.text for one in found if isinstance(one, Answer)} == {
        f"k{i}": f"answer to question {i}" for i in range(number)
    }
    assert len(found) == number == len(cache)
    assert Counter(fake.answered.values()) == {1: number}  # the server sent each answer once
    assert 200 <= fake.most <= 220
    assert fake.tries.total() > 1.03 * number


def test_killed_and_run_again(tmp_path: Path) -> None:
    """Killed three times at any moment: the run that ends has every answer once, and what was asked again is at most
    what was in flight at a kill.
    """
    rng = random.Random(os.getpid())
    number, in_flight = 300, 16
    with FakeTeacher(lambda body, number: Reply(text=f"answer {number}", seconds=0.02)) as fake:
        env = dict(os.environ, OPENAI_BASE_URL=fake.url, OPENAI_API_KEY=KEY)
        command = [sys.executable, "-c", RUN, str(tmp_path / "cache"), str(number), str(tmp_path / "out")]
        kills, said = 0, b""
        while True:
            before = len(fake.bodies)
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if kills < 3:
                until = before + rng.randrange(1, 60)
                while len(fake.bodies) < until and process.poll() is None:
                    time.sleep(0.002)
                process.send_signal(signal.SIGKILL)
            said += process.communicate(timeout=60)[0]
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, said
            kills += 1
    assert kills == 3 and said == b"done\n"
    lines = (tmp_path / "out").read_text().splitlines()
    assert sorted(line.split(" ")[0] for line in lines) == sorted(f"k{i}" for i in range(number))
    assert len(Cache(tmp_path / "cache")) == number == len(fake.tries)
    assert max(fake.tries.values()) <= 2 + kills // 2
    assert fake.tries.total() <= number + kills * in_flight
    # The key is in no file and was never said.
    told = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) + said
    assert len(told) > 1000 and KEY.encode() not in told


def test_several_runs_with_one_cache(tmp_path: Path) -> None:
    """Two processes with the same requests and one folder agree on every answer."""
    draws = random.Random(0)
    with FakeTeacher(lambda body, number: Reply(text=str(draws.random()), seconds=0.01)) as fake:
        env = dict(os.environ, OPENAI_BASE_URL=fake.url, OPENAI_API_KEY=KEY)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, str(tmp_path / "cache"), "60", str(tmp_path / f"out{i}")],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for i in range(2)
        ]
        for process in processes:
            assert process.communicate(timeout=100)[0] == b"done\n"
    outs = [sorted((tmp_path / f"out{i}").read_text().splitlines()) for i in range(2)]
    assert outs[0] == outs[1] and len(outs[0]) == 60


def test_memory_does_not_grow_with_the_requests(monkeypatch, tmp_path) -> None:
    """Of what is asked nothing is held once it is answered."""
    import gc

    seen = []

    def many() -> Any:
        for i in range(2000):
            if i == 600:
                gc.collect()
                seen.append(sum(isinstance(one, Request) for one in gc.get_objects()))
            yield Request(f"k{i}", (Message("user", f"question {i % 20}"),))

    with FakeTeacher(lambda body, number: "fine") as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        assert sum(1 for _ in Remote(Settings("m", in_flight=8), Cache(tmp_path)).ask(many())) == 2000
    assert max(seen) < 60 and len(fake.tries) == 20
    assert not [thread for thread in threading.enumerate() if thread.name == "teacher"]
