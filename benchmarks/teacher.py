"""How many requests a second a teacher's client gets through, and at what cost of CPU: against a server on loopback.

python -m benchmarks.teacher                     # 200 and 500 in flight; the server is a process of its own

Every answer takes `--seconds`, so that the most there can be is in-flight / seconds; prompts have about 600 tokens.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = """
import sys
from tests.fake_teacher import FakeTeacher, Reply
with FakeTeacher(lambda body, number: Reply(text="word " * 150, seconds=float(sys.argv[1]))) as fake:
    print(fake.url, flush=True)
    sys.stdin.read()
    print(fake.most, len(fake.bodies), flush=True)
"""


def measure(in_flight: int, number: int, seconds: float) -> str:
    """One line."""
    from jaxllava.teacher.cache import Cache
    from jaxllava.teacher.messages import Answer, Message, Request
    from jaxllava.teacher.remote import Remote
    from jaxllava.teacher.settings import Settings

    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ["OPENAI_BASE_URL"] = server.stdout.readline().strip()
    os.environ["OPENAI_API_KEY"] = "none"
    text = "some words of a caption " * 100
    requests = (Request(str(i), (Message("user", f"{i} {text}"),)) for i in range(number))
    with tempfile.TemporaryDirectory() as folder:
        teacher = Remote(Settings("m", in_flight=in_flight), Cache(Path(folder)))
        list(teacher.ask([Request("first", (Message("user", "imports"),))]))
        start, used = time.perf_counter(), time.process_time()
        answers = sum(isinstance(one, Answer) for one in teacher.ask(requests))
        wall, used = time.perf_counter() - start, time.process_time() - used
    most, asked = server.communicate()[0].split()
    assert answers == number == int(asked) - 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{in_flight} in flight (server saw {most}): {number} requests in {wall:.1f} s, {number / wall:.0f} a second; "
        f"{used / number * 1e3:.2f} ms of CPU each, {used / wall:.0%} of a core; {memory:.0f} MiB at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for in_flight in args.in_flight:
        print(measure(in_flight, args.requests, args.seconds), flush=True)


if __name__ == "__main__":
    main()
