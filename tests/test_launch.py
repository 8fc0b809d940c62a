"""The launch scripts, run for real on a copy of the checkout; only the interpreter is a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted(ROOT.glob("launch/*.sh")), ROOT / ".ci" / "run"]

# Stands in for Python: makes an "environment" that is a copy of itself, notes what pip was asked, and is the
# real Python for everything else.
STUB = """#!/bin/bash
case "$1 $2" in
  "-m venv")
    target="${{!#}}"
    echo venv >>"$STUB_LOG"
    mkdir -p "$target/bin" && cp "$0" "$target/bin/python" ;;
  "-m pip")
    [ "$3" = install ] || exit 0
    shift 2
    echo "pip $*" >>"$STUB_LOG"
    [ -z "$STUB_PIP_FAILS" ] || {{ echo "ERROR: no matching distribution"; exit 1; }}
    printf '#!/bin/bash\\necho "ran in $PWD: $*"\\n' >"$(dirname "$0")/jaxllava"
    chmod +x "$(dirname "$0")/jaxllava" ;;
  "-m ruff"|"-m pyright"|"-m pytest")
    shift
    echo "$*" >>"$STUB_LOG"
    [ "$1" != "$STUB_CHECK_FAILS" ] || exit 3 ;;
  *) exec {python} "$@" ;;
esac
"""


class Checkout:
    def __init__(self, tmp: Path) -> None:
        self.root = tmp / "a checkout"  # with a space in its path
        self.elsewhere = tmp / "elsewhere"
        self.elsewhere.mkdir()
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        (self.root / "constraints.txt").write_text("numpy==2.4.6\n")
        self.log = tmp / "log"
        self.stub = tmp / "stub" / "python3.11"
        self.program(self.stub, STUB.format(python=sys.executable))

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        base = {
            k: v
            for k, v in os.environ.items()
            if k not in ("PYTHON", "PIP_CACHE_DIR", "JAXLLAVA_TORCH_INDEX")
        }
        base |= {"STUB_LOG": str(self.log), "STUB_PIP_FAILS": "", "STUB_CHECK_FAILS": ""}
        base["PATH"] = f"{self.stub.parent}:{base['PATH']}"
        command = ["bash", str(self.root / "launch" / script), *flags]
        return subprocess.run(
            command, cwd=self.elsewhere, env=base | env, capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)


# The extra [test] puts it beside the interpreter, which need not be on the path.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck():
    done = subprocess.run(
        [str(SHELLCHECK), "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_quickstart_installs_once_and_runs_from_any_directory(checkout: Checkout):
    first = checkout.run("quickstart.sh", "--scale", "tiny")
    assert first.returncode == 0, first.stderr
    assert checkout.calls()[0] == "venv"
    assert checkout.calls()[1].startswith(
        f"pip install --disable-pip-version-check -c {checkout.root}/constraints.txt"
    )
    assert f"ran in {checkout.root}: quickstart --workdir runs/quickstart --scale tiny" in first.stdout

    second = checkout.run("quickstart.sh", "--scale", "tiny")
    assert second.returncode == 0, second.stderr
    assert checkout.calls() == []  # neither venv nor pip
    assert second.stdout == f"ran in {checkout.root}: quickstart --workdir runs/quickstart --scale tiny\n"
    assert not list(checkout.elsewhere.iterdir())


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_pins_install_again_into_the_same_environment(checkout: Checkout, name: str):
    checkout.run("quickstart.sh")
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    assert checkout.run("quickstart.sh").returncode == 0
    assert [call.split()[0] for call in checkout.calls()] == ["pip"]


def test_tests_add_to_the_environment_of_quickstart(checkout: Checkout):
    checkout.run("quickstart.sh")
    done = checkout.run("test.sh", "-k", "metrics")
    assert done.returncode == 0, done.stderr
    install, *rest = checkout.calls()
    checks = [
        call for call in rest if "lmms-eval" not in call
    ]  # which pip is asked for once, where it is not there
    assert install.endswith(f"-e {checkout.root}[test]")
    assert "--extra-index-url" not in install
    assert [check.split()[0] for check in checks] == ["ruff", "ruff", "pyright", "pytest"]
    assert checks[-1] == "pytest -n auto --maxprocesses 4 --dist loadfile -k metrics"
    assert checkout.run("test.sh").returncode == 0
    again = [call for call in checkout.calls() if "lmms-eval" not in call]
    assert not [call for call in again if call.startswith(("venv", "pip"))]
    checkout.run("quickstart.sh")  # and back: what fits the tests fits the quickstart
    assert checkout.calls() == []


def test_torch_index_is_used_only_where_it_is_named(checkout: Checkout):
    checkout.run("test.sh", JAXLLAVA_TORCH_INDEX="https://example.org/cpu")
    assert checkout.calls()[1].endswith("--extra-index-url https://example.org/cpu")


def test_every_check_runs_and_failures_are_named(checkout: Checkout):
    done = checkout.run("test.sh", STUB_CHECK_FAILS="ruff")
    assert done.returncode == 1
    assert checkout.calls()[-1].startswith("pytest")
    assert done.stderr == "jaxllava: failed: ruff check, ruff format\n"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("jaxllava: ")
    return done.stderr


def test_refuses_an_old_python(checkout: Checkout, tmp_path: Path):
    old = tmp_path / "old" / "python3"
    # Answers as Python 3.9 would: the version check fails, the version's name prints.
    checkout.program(old, '#!/bin/bash\ncase "$2" in *exit*) exit 1 ;; *) echo 3.9.2 ;; esac\n')
    line = one_line(checkout.run("quickstart.sh", PYTHON=str(old)))
    assert "is Python 3.9.2; jaxllava needs 3.11 or newer" in line
    assert not (checkout.root / ".venv").exists()
    assert "not a program" in one_line(checkout.run("quickstart.sh", PYTHON="/no/such/python"))


def test_refuses_without_any_fitting_python(checkout: Checkout, tmp_path: Path):
    tools = tmp_path / "tools"  # a PATH with the shell's tools, and only an old Python
    checkout.program(tools / "python3", "#!/bin/bash\nexit 1\n")
    for tool in ("bash", "dirname", "grep", "mkdir", "rm", "tail"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    assert "no Python 3.11 or newer on PATH" in one_line(checkout.run("quickstart.sh", PATH=str(tools)))


def test_names_a_missing_venv_module(checkout: Checkout, tmp_path: Path):
    bare = tmp_path / "bare" / "python3"
    checkout.program(
        bare, f'#!/bin/bash\ncase "$2" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    assert "has no venv module" in one_line(checkout.run("quickstart.sh", PYTHON=str(bare)))


def test_a_failed_pip_names_its_log_and_is_tried_again(checkout: Checkout):
    line = one_line(checkout.run("quickstart.sh", STUB_PIP_FAILS="1"))
    assert "pip failed: ERROR: no matching distribution" in line
    log = Path(line.rsplit("full log: ", 1)[1].strip())
    assert log.read_text() == "ERROR: no matching distribution\n"
    assert log.is_relative_to(checkout.root)
    assert checkout.run("quickstart.sh").returncode == 0
    assert [call.split()[0] for call in checkout.calls()] == ["pip"]


def test_refuses_outside_a_checkout(checkout: Checkout):
    (checkout.root / "pyproject.toml").unlink()
    assert "no pyproject.toml" in one_line(checkout.run("quickstart.sh"))


def test_refuses_an_environment_elsewhere(checkout: Checkout, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("keep")
    (checkout.root / ".venv").symlink_to(other)
    assert "symbolic link" in one_line(checkout.run("quickstart.sh"))
    assert (other / "mine").read_text() == "keep"
