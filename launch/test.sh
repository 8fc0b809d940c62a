#!/usr/bin/env bash
# Every check of the project: lint, format, types, tests. Installs the extra [test] into .venv once.
#
#   launch/test.sh [flags of pytest]
#
# All four run, whatever fails before them; the exit status is 1 if any failed.
set -euo pipefail

# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env test
cd "$ROOT"
# lmms-eval for the test of our plugin, without what it asks for (675 MB, and a torchvision that fits no CPU build of
# torch): the extra [test] has what is used.
LMMS_EVAL="lmms-eval==0.7.3"
if ! .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("lmms_eval") is None)'; then
  echo "jaxllava: installing $LMMS_EVAL into .venv"
  .venv/bin/python -m pip install --disable-pip-version-check --no-deps "$LMMS_EVAL" >>"$LOG" 2>&1 ||
    echo "jaxllava: $LMMS_EVAL could not be installed; its tests are skipped (see $LOG)" >&2
fi
# Keeps pyright's downloads (a node runtime, where the machine has none) inside the checkout.
export PYRIGHT_PYTHON_CACHE_DIR="${PYRIGHT_PYTHON_CACHE_DIR:-$ROOT/.venv-cache/pyright}"
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1

failed=()
check() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

check "ruff check" .venv/bin/python -m ruff check .
check "ruff format" .venv/bin/python -m ruff format --check .
check "pyright" .venv/bin/python -m pyright --pythonpath .venv/bin/python
# Files of tests side by side; a file's tests share what they compile. Each process may take 3 GB.
parallel=(-n auto --maxprocesses 4 --dist loadfile)
for flag in "$@"; do
  case "$flag" in -n* | --numprocesses* | --pdb | -s) parallel=() ;; esac
done
check "pytest" .venv/bin/python -m pytest "${parallel[@]}" "$@"

if [ "${#failed[@]}" -gt 0 ]; then
  printf 'jaxllava: failed: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
  exit 1
fi
echo "jaxllava: all checks passed"
