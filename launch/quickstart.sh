#!/usr/bin/env bash
# From a bare machine (Python 3.11+, pip, this checkout) to a finished report: installs once, then runs the quickstart.
#
#   launch/quickstart.sh [flags of `jaxllava quickstart`]
#
# Works from any directory; relative paths in the flags are relative to the checkout. See env.sh for PYTHON and friends.
set -euo pipefail

# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env ""
cd "$ROOT"
exec .venv/bin/jaxllava quickstart --workdir runs/quickstart "$@"
