#!/usr/bin/env bash
# Runs a jaxllava command as N processes of one jax.distributed run on this machine: what a pod does, on a laptop.
#
#   launch/local_pod.sh 2 train --config configs/train.py:stage=behavior --config.data=DIR --config.base=DIR --workdir RUN
#
# DEVICES=4   simulated devices in all; N has to divide it. The batches and losses do not depend on N.
# PYTHON=...  the interpreter (default: the checkout's .venv, else python)
#
# Each line says which process it comes from. Ctrl-C and SIGTERM reach all of them; where one fails the others are ended
# and its exit status is this script's.
set -uo pipefail

die() {
  printf 'local_pod.sh: %s\n' "$*" >&2
  exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
[ $# -ge 2 ] || die "give the number of processes and a jaxllava command: launch/local_pod.sh 2 train ..."
count="$1"
shift
devices="${DEVICES:-4}"
case "$count$devices" in
  *[!0-9]*) die "'$count' processes, DEVICES=$devices: numbers are needed" ;;
esac
if [ "$count" -lt 1 ] || [ "$((devices % count))" -ne 0 ]; then
  die "$count processes do not divide DEVICES=$devices"
fi
python="${PYTHON:-}"
if [ -z "$python" ]; then
  python=python
  [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python"
fi
command -v "$python" >/dev/null 2>&1 || die "$python is not a program; run launch/test.sh once, or set PYTHON"

port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')" || exit 2
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_COORDINATOR_BIND_ADDRESS="127.0.0.1:$port"
export JAX_NUM_PROCESSES="$count" JAX_PLATFORMS=cpu
export XLA_FLAGS="--xla_force_host_platform_device_count=$((devices / count))"

pids=()
forward() {
  for pid in "${pids[@]}"; do
    kill -s "$1" "$pid" 2>/dev/null
  done
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# Gloo, which carries the sums between processes, tells of each connection. A terminal's Ctrl-C comes to every process
# of the group: what a run says of its end has to find its reader alive.
label() {
  trap '' INT TERM
  sed -u -e '/\[Gloo\] Rank/d' -e "s/^/[$1] /"
}

for index in $(seq 0 "$((count - 1))"); do
  # The process writes into a pipe of its own, so that its id is the one that signals go to.
  JAX_PROCESS_ID="$index" "$python" -m jaxllava "$@" > >(label "$index") 2> >(label "$index" >&2) &
  pids+=("$!")
done

worst=0
left=("${pids[@]}")
while [ "${#left[@]}" -gt 0 ]; do
  still=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    wait "$pid"
    status=$?
    if [ "$status" -ne 0 ] && [ "$worst" -eq 0 ]; then
      worst=$status
      [ "$status" -le 128 ] || printf 'local_pod.sh: a process was ended by signal %s; the others are ended\n' "$((status - 128))" >&2
      sleep 3 # what they have to say about it themselves
      forward KILL
    fi
  done
  left=(${still[@]+"${still[@]}"})
  [ "${#left[@]}" -gt 0 ] && sleep 0.2
done
exit "$worst"
