"""A cloud of one folder for the tests of launch/tpu.sh: its `gcloud`, its workers' tools, and how they are driven.

The fake `gcloud` notes each call, plays the states of a request, and runs what is sent to a worker in a home of its own
by a real shell. Of a worker, only what needs root, the network or a TPU is played: sudo, systemd-run, gcsfuse, apt-get,
pip and the training itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

GCLOUD = """#!{python} -IS
import json, os, pathlib, shutil, signal, subprocess, sys, time

cloud = pathlib.Path({cloud!r})
words = sys.argv[1:]
with (cloud / "calls").open("a") as file:
    file.write(json.dumps(words) + "\\n")
flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
plain = [word for word in words if not word.startswith("-")]
play = json.loads((cloud / "play.json").read_text())
request = cloud / f"request-{{plain[4] if len(plain) > 4 else None}}.json"

# Answers to these were compared with what the real gcloud's printer makes of its messages (SDK 528).
LOOK = (
    'value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.jaxllava_launch,state.failedData.error.message)'
)
BUCKET = 'value[separator="|"](location,hierarchicalNamespace.enabled)'


def fail(text, status=1):
    print(text, file=sys.stderr)
    sys.exit(status)


def save():
    # In one step: the workers read it meanwhile.
    part = cloud / f"play-{{os.getpid()}}.json"
    part.write_text(json.dumps(play))
    part.replace(cloud / "play.json")


def homes(node):
    return [cloud / "home" / f"{{node}}-w-{{i}}" for i in range(play["workers"])]


if play.get("catches") == plain[3:4]:
    # The real one handles the signal itself, so that a shell which waits for it takes it as dealt with.
    signal.signal(signal.SIGINT, lambda *_: fail("Command killed by keyboard interrupt"))
    (cloud / "catching").touch()
    time.sleep(60)
if play.get("warns"):
    print("WARNING: This command is using service account impersonation.", file=sys.stderr)
if play.get("broken_calls", 0):
    play["broken_calls"] -= 1
    save()
    fail("ERROR: (gcloud) There was a problem refreshing your current auth tokens")
if plain[:4] == ["compute", "tpus", "queued-resources", "describe"]:
    if not request.exists():
        fail("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found")
    state = play["states"][0]
    if len(play["states"]) > 1:
        play["states"].pop(0)
        save()
    error = play["error"] if state == "FAILED" else ""
    if flags["format"] != LOOK:
        fail("ERROR: another format than the one whose answer is played")
    print("|".join([state, json.loads(request.read_text())["token"], error]))
elif plain[:4] == ["compute", "tpus", "queued-resources", "create"]:
    if play.get("no_quota", 0):
        play["no_quota"] -= 1
        save()
        fail("ERROR: quota exceeded")
    request.write_text(json.dumps({{"token": flags["labels"].split("=")[1]}}))
    play["states"] = play["after_create"] or play["states"]
    save()
elif plain[:4] == ["compute", "tpus", "queued-resources", "delete"]:
    if play.get("cannot_delete"):
        fail("ERROR: PERMISSION_DENIED")
    request.unlink()
    for home in (cloud / "home").glob("*"):
        pid = home / "jaxllava-run" / "pid"
        if pid.exists():
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(home, ignore_errors=True)
elif plain[:4] == ["compute", "tpus", "tpu-vm", "scp"]:
    node, name = plain[5].split(":")
    for home in homes(node):
        if home.name in play["unreachable"]:
            fail("scp: Connection closed")
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(plain[4], home / name)
elif plain[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
    chosen = homes(plain[4])
    if flags["worker"] != "all":
        chosen = [chosen[int(flags["worker"])]]
    status, running = 0, []
    for home in chosen:
        home.mkdir(parents=True, exist_ok=True)
        if home.name in play["unreachable"]:
            print(f"ssh: connect to {{home.name}} port 22: timed out", file=sys.stderr)
            status = 255
            continue
        env = dict(os.environ, HOME=str(home), FAKE_HOST=home.name, PATH=f"{{cloud}}/tools:" + os.environ["PATH"])
        # As ssh does it: gcloud splits at spaces, ssh joins, the login shell reads.
        command = " ".join(flags["command"].split(" "))
        if play.get("breaks") and f" {{play['breaks']}} " in command:
            # The connection breaks after the command was done, and gcloud gives it again.
            subprocess.run(["bash", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL)
        running.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL))
    for process in running:
        status = process.wait() or status
    sys.exit(status)
elif plain[:3] == ["storage", "buckets", "describe"]:
    if "--raw" not in words or flags["format"] != BUCKET:
        fail("ERROR: another format than the one whose answer is played")
    print(play["bucket"])
elif plain[:2] == ["storage", "du"]:
    print(play["bytes"], plain[2])
elif plain[:2] == ["storage", "rsync"]:
    if play.get("no_copy"):
        fail("ERROR: the network is down")
    source = cloud / "buckets" / plain[2].removeprefix("gs://")
    shutil.copytree(source, plain[3], dirs_exist_ok=True)
else:
    fail(f"the fake gcloud does not know {{words}}")
"""

PYTHON = """#!/bin/bash
case "$1 $2" in
  "-m venv")
    mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python" ;;
  "-m pip")
    [ "$3" != install ] || echo "$*" >>"$HOME/pip" ;;
  "-c import jax, libtpu") [ ! -e {cloud}/no-libtpu ] ;;
  "-c import venv, ensurepip") ;;
  "-m jaxllava") shift 2; exec {python} -IS {cloud}/train.py "$@" ;;
  *) exec {python} -IS "$@" ;;
esac
"""

# In place of `jaxllava train`: notes its arguments, and does as the play says.
TRAIN = """
import json, os, pathlib, signal, subprocess, sys, time

does = json.loads(pathlib.Path(__file__).with_name("play.json").read_text())["train"]
told = pathlib.Path(os.environ["HOME"], "trained.jsonl")
with told.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
workdir.mkdir(parents=True, exist_ok=True)
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
print("training on", os.environ["JAX_PLATFORMS"], flush=True)
while does == "wait" and not stopping:
    time.sleep(0.02)
if does == "finish":
    (workdir / "train.json").write_text("{}")
if does == "orphan":
    subprocess.Popen(["sleep", "3"], close_fds=False)
sys.exit(3 if does in ("fail", "orphan") else 0)
"""

TOOLS = {
    "hostname": 'echo "$FAKE_HOST"',
    "sudo": 'exec env "$@"',
    # As systemd does it: the unit is begun, and what becomes of it is seen later.
    "systemd-run": 'echo "$*" >>"$HOME/units"\n'
    'while case "$1" in --*) true ;; *) false ;; esac; do shift; done\n'
    '{ sleep 0.3; exec "$@"; } >/dev/null 2>&1 &',
    "mountpoint": '[ -L "$2" ]',
    "gcsfuse": '[ "$1" != --version ] || { echo "gcsfuse version 3.11.1"; exit; }\n'
    'bucket="${@: -2:1}"\n[ -d "CLOUD/buckets/$bucket" ] || exit 1\n'
    'rmdir "${!#}" && ln -s "CLOUD/buckets/$bucket" "${!#}"',
}

# Of a machine that has just begun: another process has the lock of the lists at first, and nothing is installed yet.
FRESH = {
    "apt-get": 'echo "apt-get $*" >>"$HOME/apt"\ncase "$*" in\n'
    '  *update) [ -e "$HOME/waited" ] || { touch "$HOME/waited"; echo "E: Could not get lock" >&2; exit 100; } ;;\n'
    '  *) [ "$DEBIAN_FRONTEND" = noninteractive ] || exit 1\n'
    '    for name in "$@"; do [ ! -e "CLOUD/later/$name" ] || cp "CLOUD/later/$name" CLOUD/tools; done ;;\nesac',
    "add-apt-repository": 'echo "add-apt-repository $*" >>"$HOME/apt"',
    "curl": 'echo "curl $*" >>"$HOME/apt"',
    "tee": 'cat >>"$HOME/sources"',
    "lsb_release": "echo jammy",
    "gcsfuse": "exit 127",
    **dict.fromkeys(("python3.11", "python3.12", "python3.13", "python3"), "exit 127"),
}

SETTINGS = {
    "PROJECT": "some-project",
    "ZONE": "us-west4-a",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "PROVISIONING": "spot",
    "NAME": "pod",
    "BUCKET": "shed",
}


class Cloud:
    """A project with a bucket `shed`, and a checkout (with a space in its path) to launch from."""

    def __init__(self, tmp: Path, workers: int = 2):
        self.folder, self.root = tmp / "cloud", tmp / "a checkout"
        self.bin = self.folder / "bin"
        (self.folder / "tools").mkdir(parents=True)
        (self.folder / "buckets" / "shed" / "data" / "records").mkdir(parents=True)
        self.bin.mkdir()
        names = dict(python=sys.executable, cloud=str(self.folder))
        self._program(self.bin / "gcloud", GCLOUD.format(**names))
        self._program(self.folder / "tools" / "python3.11", PYTHON.format(**names))
        self._tools(TOOLS)
        (self.folder / "train.py").write_text(TRAIN)
        (self.folder / "calls").touch()
        self.play(
            workers=workers,
            states=["ACTIVE"],
            after_create=[],
            error="",
            unreachable=[],
            bucket="US-WEST4|True",
            bytes=1000,
            train="wait",
        )
        shutil.copytree(ROOT / "launch", self.root / "launch", ignore=shutil.ignore_patterns("tpu.env"))
        for name in ("pyproject.toml", "constraints.txt", ".gitignore"):
            shutil.copy(ROOT / name, self.root)
        (self.root / "configs").mkdir()
        shutil.copy(ROOT / "configs" / "train.py", self.root / "configs")
        self.git("init", "-q")
        self.commit()
        self.settings()

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def _tools(self, tools: dict[str, str]) -> None:
        for name, text in tools.items():
            text = text.replace("CLOUD", str(self.folder))
            self._program(self.folder / "tools" / name, f"#!/bin/bash\n{text}\n")

    def fresh(self) -> None:
        """Python and gcsfuse have to be installed on the workers."""
        later = self.folder / "later"
        later.mkdir()
        for name in ("python3.11", "gcsfuse"):
            shutil.move(self.folder / "tools" / name, later)
        self._tools(FRESH)

    def ready(self) -> None:
        """As after `create` and `setup`, without the time that they take."""
        self.state.mkdir(parents=True)
        token = "0123456789abcdef"
        (self.state / "token").write_text(f"{token}\n")
        (self.folder / "request-pod.json").write_text(json.dumps({"token": token}))
        self.git("archive", "--format=tar.gz", "-o", str(self.state / "code.tgz"), "HEAD")
        commit = self.git("rev-parse", "HEAD")
        (self.state / "commit").write_text(commit)
        for index in range(json.loads((self.folder / "play.json").read_text())["workers"]):
            home = self.folder / "home" / f"pod-w-{index}"
            shutil.copytree(self.root / "launch", home / "jaxllava" / "launch")
            (home / "jaxllava" / ".from-launch").write_text(commit)
            (home / "jaxllava" / ".venv" / "bin").mkdir(parents=True)
            shutil.copy(self.folder / "tools" / "python3.11", home / "jaxllava" / ".venv" / "bin" / "python")
            (home / "jaxllava-run").mkdir()
            (home / "gcs").mkdir()
            (home / "gcs" / "shed").symlink_to(self.bucket())

    def wait(self, name: str, text: str = "", count: int = 1) -> None:
        """Until a file of every worker holds a text so often."""
        until = time.monotonic() + 30
        for home in self.homes():
            path = home / name
            while not path.is_file() or path.read_text().count(text) < count:
                assert time.monotonic() < until, (home / "jaxllava-run" / "train.log").read_text()
                time.sleep(0.01)

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(
            ["git", *who, *words], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "x")

    def settings(self, **changes: str) -> None:
        lines = [f"{key}={value}" for key, value in (SETTINGS | changes).items() if value]
        (self.root / "launch" / "tpu.env").write_text("# mine\n\n" + "\n".join(lines) + "\n")

    def play(self, **changes) -> None:
        path = self.folder / "play.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(found | changes))

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "JAX_PLATFORMS")}
        kept |= {"JAXLLAVA_TPU_POLL": "0.02", "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return kept | changes

    def run(self, *words: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "launch" / "tpu.sh"), *words],
            cwd=self.folder,
            env=self.environment(**env),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def begun(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on meanwhile, in a process group of its own."""
        with subprocess.Popen(
            [str(self.root / "launch" / "tpu.sh"), *words],
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Tests that run in the background of a shell are deaf to it, and so would this be.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as command:
            try:
                yield command
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command on all workers, as another tpu.sh would give it."""
        words = ["compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all", f"--command={command}"]
        return subprocess.run(
            [str(self.bin / "gcloud"), *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def ok(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = self.run(*words, **env)
        assert done.returncode == 0, done.stderr
        return done

    def calls(self, *kind: str) -> list[list[str]]:
        """The calls of gcloud since the last `forget`, of a kind such as ("queued-resources", "create")."""
        found = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [call for call in found if call[2 : 2 + len(kind)] == list(kind)] if kind else found

    def forget(self) -> None:
        (self.folder / "calls").write_text("")

    @property
    def state(self) -> Path:
        return self.root / ".tpu" / "some-project" / "us-west4-a" / "pod"

    def homes(self) -> list[Path]:
        return sorted((self.folder / "home").glob("*"))

    def bucket(self, *parts: str) -> Path:
        return self.folder.joinpath("buckets", "shed", *parts)

    def trained(self, home: Path) -> list[list[str]]:
        """The arguments of each `jaxllava train` on a worker."""
        path = home / "trained.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self) -> None:
        """Ends what still runs."""
        for path in (self.folder / "home").glob("*/jaxllava-run/pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.killpg(int(path.read_text()), signal.SIGKILL)
