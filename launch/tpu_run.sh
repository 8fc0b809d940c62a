# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153 # settings and flags are variables of tpu.sh
# What tpu.sh does on the machines that tpu_request.sh got: the checkout, the run, its log. Sourced by tpu.sh.
#
# Everything on a worker is done by tpu_worker.sh there; here is only what it is told, over `gcloud ... tpu-vm ssh`.

THERE="bash jaxllava/launch/tpu_worker.sh" # the ssh command begins in the home directory

# $1 is a node, $2 the workers (all, or a number), $3 a command of the worker's shell.
on_node() {
  local -a command
  command=(tpu-vm ssh "$1" "--worker=$2" "--command=$3")
  [ "$INTERNAL_IPS" = no ] || command+=(--internal-ip)
  gcloud_tpus "${command[@]}"
}

# A command, with each node as $node, for all slices at the same time; fails where one of them does.
on_each() {
  local node pid failed=0
  local -a pids
  pids=()
  for node in $(nodes); do
    if [ "$DRY" = 1 ]; then
      "$@"
    else
      "$@" </dev/null &
      pids+=("$!")
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do
    wait "$pid" || failed=1
  done
  return "$failed"
}

# $1 on all workers of all slices.
on_all() {
  on_each on_workers "$1"
}

on_workers() {
  on_node "$node" all "$1"
}

# Sets STATES, a line "HOST STATE" for each worker that answers: bare (no checkout), idle, running, finished, stopped,
# "failed N", lost (it was running, and the machine began anew). Fails where one does not answer.
worker_states() {
  local found status=0
  set -- "if [ -f jaxllava/launch/tpu_worker.sh ]; then $THERE state; else echo \"jaxllava-worker \$(hostname) bare\"; fi"
  STATES=""
  if [ "$DRY" = 1 ]; then
    on_all "$1"
    return 0
  fi
  found="$(on_all "$1")" || status=1
  STATES="$(printf '%s\n' "$found" | sed -n 's/^jaxllava-worker //p' | sort)"
  return "$status"
}

any_is() {
  printf '%s\n' "$STATES" | grep -qE "^[^ ]+ ($1)( |\$)"
}

all_are() {
  [ -n "$STATES" ] && ! printf '%s\n' "$STATES" | grep -qvE "^[^ ]+ ($1)( |\$)"
}

do_setup() {
  local changed
  need_active
  check_bucket
  command -v git >/dev/null 2>&1 || die "git is not on PATH: setup sends what is committed"
  git -C "$ROOT" rev-parse --verify -q HEAD >/dev/null 2>&1 || die "$ROOT is no git checkout with a commit: setup sends what is committed"
  changed="$(git -C "$ROOT" status --porcelain)"
  if [ -n "$changed" ] && [ "$COMMITTED" = 0 ]; then
    printf '%s\n' "$changed" | head -n 20 >&2
    die "the changes above are not committed, and only what is committed is sent: commit them, or give --committed to leave them out"
  fi
  keep "$STATE/commit" "$(git -C "$ROOT" rev-parse HEAD)"
  run git -C "$ROOT" archive --format=tar.gz -o "$STATE/code.tgz" HEAD
  send_code "$(git -C "$ROOT" rev-parse HEAD)"
}

# The archive of $STATE to all workers, and everything that a run needs. $1 is the commit.
send_code() {
  local -a flags
  flags=("--worker=all")
  [ "$INTERNAL_IPS" = no ] || flags+=(--internal-ip)
  on_each copy_code "${flags[@]}" ||
    die "the checkout could not be copied to all workers; with several workers gcloud needs the key in an agent: eval \"\$(ssh-agent)\"; ssh-add ~/.ssh/google_compute_engine"
  on_all "rm -rf jaxllava-new && mkdir jaxllava-new && tar -xzf jaxllava-code.tgz -C jaxllava-new && bash jaxllava-new/launch/tpu_worker.sh setup $(quoted "$BUCKET" "$1")" ||
    die "a worker could not be set up; it says why above, and the same command goes on"
  [ "$DRY" = 1 ] || say "all workers have commit $1; launch/tpu.sh train is next. $(costs)"
}

copy_code() {
  gcloud_tpus tpu-vm scp "$STATE/code.tgz" "$node:jaxllava-code.tgz" "$@"
}

# The run of TRAIN on every worker. One that cannot be reached leaves the others waiting: they are ended again, by the id
# of this start, which no other run has.
start() {
  local id
  id="$(random)"
  if ! on_all "$THERE start $(quoted "$id" "$DATA_DIR" "${TRAIN[@]}")"; then
    on_all "$THERE stop $id" >/dev/null 2>&1
    die "the run could not be started on all workers, and was ended on the others; see above, then give the same command again. $(costs)"
  fi
  [ "$DRY" = 1 ] || say "started; launch/tpu.sh logs -f follows it, and watch resumes it until it is finished. $(costs)"
}

do_stop() {
  need_active
  on_all "$THERE stop" || die "not all workers answered; give launch/tpu.sh stop again. $(costs)"
  [ "$DRY" = 1 ] || say "$(costs)"
}

do_logs() {
  local node="$NAME" follow=""
  need_active
  if [ "$FOLLOW" = 1 ]; then follow="-F "; fi
  if [ "$WORKER" = all ]; then
    on_all "tail -n $LINES_SHOWN ${follow}jaxllava-run/train.log | sed -u \"s/^/[\$(hostname)] /\""
    return
  fi
  [ "$SLICE" -lt "$SLICES" ] || die "--slice $SLICE: there are $SLICES, counted from 0"
  [ "$SLICES" -eq 1 ] || node="$NAME-$SLICE"
  on_node "$node" "$WORKER" "tail -n $LINES_SHOWN ${follow}jaxllava-run/train.log"
}
