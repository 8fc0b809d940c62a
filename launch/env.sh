# shellcheck shell=bash
# Makes the checkout's own Python environment, once. Sourced by the other scripts; bash 3.2 and up.
#
#   ensure_env ""       .venv with jaxllava as constraints.txt pins it
#   ensure_env test     the same, with the extra [test]
#
# PYTHON=...            the interpreter to build .venv with (default: the first fitting one on PATH)
# PIP_CACHE_DIR=...     where pip keeps downloads (default: .venv-cache in the checkout; nothing is written outside it)
# JAXLLAVA_TORCH_INDEX=...  an extra package index for the tests' torch, where plain PyPI serves a CUDA build
#
# .venv/jaxllava.stamp holds a hash of everything that decides what is installed. While it fits, pip is not called.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/jaxllava.stamp"
LOG="$ROOT/.venv-cache/install.log"

die() {
  printf 'jaxllava: %s\n' "$*" >&2
  exit 1
}

# Exits 0 when $1 runs and is Python 3.11 or newer.
fits() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1
}

# Exits 0 when $1 can make an environment with pip in it. Debian ships Python without this part.
has_venv() {
  "$1" -c 'import venv, ensurepip' </dev/null >/dev/null 2>&1
}

version_of() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' </dev/null 2>/dev/null || echo "which does not run"
}

# Prints the interpreter to build .venv with, or stops with one line.
find_python() {
  local candidate without=""
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null 2>&1 || die "PYTHON=$PYTHON is not a program; unset PYTHON or correct it."
    fits "$PYTHON" || die "PYTHON=$PYTHON is Python $(version_of "$PYTHON"); jaxllava needs 3.11 or newer."
    has_venv "$PYTHON" || die "PYTHON=$PYTHON has no venv module (Debian, Ubuntu: apt install python3-venv)."
    echo "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3.13 python3; do
    fits "$candidate" || continue
    if has_venv "$candidate"; then
      echo "$candidate"
      return
    fi
    without="${without:-$candidate}"
  done
  if [ -n "$without" ]; then
    die "$without has no venv module; install it (Debian, Ubuntu: apt install $without-venv)."
  fi
  die "no Python 3.11 or newer on PATH (tried python3.11, python3.12, python3.13, python3); install one or set PYTHON."
}

# Prints "<hash> <extras>" of what an environment with the extras $2, run by the interpreter $1, is made from.
stamp_of() {
  "$1" - "$ROOT" "$2" <<'PYTHON_END'
import hashlib, pathlib, sys
root, extras = sys.argv[1:]
digest = hashlib.sha256(f"{sys.version}\n{root}\n{extras}\n".encode())
for name in ("pyproject.toml", "constraints.txt"):
    digest.update((pathlib.Path(root) / name).read_bytes() + b"\0")
print(digest.hexdigest(), extras or "-")
PYTHON_END
}

is_stamped() {
  [ -f "$STAMP" ] && grep -qxF -- "$(stamp_of "$VENV/bin/python" "$1")" "$STAMP"
}

make_venv() {
  local python="$1"
  echo "jaxllava: making .venv with $python ($(version_of "$python"))"
  if ! "$python" -m venv --clear "$VENV" >"$LOG" 2>&1; then
    rm -rf "$VENV"
    die "$python could not make $VENV; see $LOG"
  fi
}

ensure_env() {
  local extras="$1" python="" target="$ROOT"
  [ -f "$ROOT/pyproject.toml" ] || die "$ROOT has no pyproject.toml; run launch/ from inside a jaxllava checkout."
  [ -f "$ROOT/constraints.txt" ] || die "$ROOT has no constraints.txt; the checkout is incomplete."
  # An environment elsewhere is someone else's: this script only builds its own.
  [ ! -L "$VENV" ] || die "$VENV is a symbolic link; remove it, so that a real one can be made here."
  if [ -n "${PYTHON:-}" ]; then
    python="$(find_python)" || exit 1
    # An environment of another Python than the one asked for is replaced.
    if [ -x "$VENV/bin/python" ] && [ "$(version_of "$VENV/bin/python")" != "$(version_of "$python")" ]; then
      rm -f "$STAMP"
    fi
  fi
  if fits "$VENV/bin/python" && is_stamped "$extras"; then
    return
  fi

  mkdir -p "$ROOT/.venv-cache"
  if ! fits "$VENV/bin/python" ||
    { [ -n "$python" ] && [ "$(version_of "$VENV/bin/python")" != "$(version_of "$python")" ]; }; then
    [ -n "$python" ] || python="$(find_python)" || exit 1
    make_venv "$python"
  fi
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
    die "$VENV has no pip (not made by this script?); remove it and run again."

  if [ -n "$extras" ]; then
    target="${ROOT}[$extras]"
  fi
  local -a command
  command=("$VENV/bin/python" -m pip install --disable-pip-version-check -c "$ROOT/constraints.txt" -e "$target")
  if [ -n "${JAXLLAVA_TORCH_INDEX:-}" ]; then
    command+=(--extra-index-url "$JAXLLAVA_TORCH_INDEX")
  fi
  echo "jaxllava: installing into .venv (once; some minutes on a fresh machine); log: $LOG"
  rm -f "$STAMP"
  if ! PIP_CACHE_DIR="${PIP_CACHE_DIR:-$ROOT/.venv-cache/pip}" "${command[@]}" >"$LOG" 2>&1; then
    die "pip failed: $(grep -i '^error' "$LOG" | tail -n 1); full log: $LOG"
  fi
  # Extras only add: what fits them fits the plain environment too, so that quickstart after test starts at once.
  {
    stamp_of "$VENV/bin/python" ""
    [ -z "$extras" ] || stamp_of "$VENV/bin/python" "$extras"
  } >"$STAMP"
}
