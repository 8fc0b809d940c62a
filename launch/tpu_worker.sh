#!/usr/bin/env bash
# What launch/tpu.sh has a worker do. Runs there, on Ubuntu, out of ~/jaxllava; not meant to be called by hand.
#
#   tpu_worker.sh setup BUCKET COMMIT      the checkout beside it becomes ~/jaxllava, with its environment; mounts the bucket
#   tpu_worker.sh start ID DATA_DIR ARGS   once for an ID: `jaxllava train ARGS` in a process that no lost connection ends
#   tpu_worker.sh state                    one line: idle, running, finished, stopped, failed N, lost
#   tpu_worker.sh stop [ID]                ends the run (of that ID only) after its step, and waits for it
#
# ~/jaxllava-run has the log, the lock that a run holds for as long as it lives, its ID, and how it ended.
# ~/gcs/BUCKET is where a bucket is mounted; gs://BUCKET/x of the arguments becomes ~/gcs/BUCKET/x.
set -uo pipefail

# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

RUN="$HOME/jaxllava-run"
RESERVE=$((10 * 1024 * 1024)) # KiB of a disk that records do not fill: the environment, logs, what is being uploaded
MOUNT_SECONDS="${JAXLLAVA_MOUNT_SECONDS:-60}"
APT_SECONDS="${JAXLLAVA_APT_SECONDS:-600}" APT_POLL="${JAXLLAVA_APT_POLL:-10}"

die() {
  printf 'jaxllava: %s: %s\n' "$(hostname)" "$*" >&2
  exit 1
}

# What installs say goes to a file, and is named where it fails.
quietly() {
  "$@" >>"$RUN/setup.log" 2>&1
}

# A machine that has just begun updates itself first, for minutes. apt-get can wait for the lock of dpkg, not for that of
# the lists.
apt_update() {
  local until=$((SECONDS + APT_SECONDS))
  until quietly sudo apt-get -q update; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep "$APT_POLL"
  done
}

apt_install() {
  apt_update &&
    quietly sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y -o "DPkg::Lock::Timeout=$APT_SECONDS" install "$@"
}

# The TPU images have Ubuntu 22.04 with Python 3.10, which is too old.
ensure_python() {
  if (find_python) >/dev/null 2>&1; then
    return
  fi
  if ! { apt_install software-properties-common && quietly sudo add-apt-repository -n -y ppa:deadsnakes/ppa &&
    apt_install python3.11 python3.11-venv; }; then
    die "Python 3.11 could not be installed; see $RUN/setup.log"
  fi
}

# 3 is the first version that writes what it is given without a copy on the disk.
ensure_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc line
  case "$(gcsfuse --version 2>/dev/null)" in *"version "[3-9]*) return ;; esac
  line="deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"
  if ! { quietly sudo curl -fsSL -o "$key" https://packages.cloud.google.com/apt/doc/apt-key.gpg &&
    echo "$line" | quietly sudo tee /etc/apt/sources.list.d/gcsfuse.list && apt_install fuse gcsfuse; }; then
    die "gcsfuse could not be installed; see $RUN/setup.log"
  fi
}

# Mounts bucket $1 at ~/gcs/$1, once. A unit of the system, stopped after all logins at a shutdown: a run that is
# saving its last checkpoint still has it then.
mount_bucket() {
  local place="$HOME/gcs/$1" until=$((SECONDS + MOUNT_SECONDS))
  mountpoint -q "$place" && return
  # A mount whose gcsfuse is gone is in the way of another, and of mkdir.
  ! grep -qsF " $place fuse" /proc/mounts || sudo umount -l "$place"
  mkdir -p "$place"
  # Hosts have to see at once what another one wrote: nothing is remembered. (On TPU machines gcsfuse's default is to
  # remember for ever.)
  sudo systemd-run --quiet --collect --unit="jaxllava-gcs-$1" --uid="$(id -u)" --gid="$(id -g)" \
    --property=Before=systemd-user-sessions.service --property=LimitNOFILE=1048576 --setenv=HOME="$HOME" \
    "$(command -v gcsfuse)" --foreground --implicit-dirs --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 --log-file="$RUN/gcsfuse-$1.log" "$1" "$place" ||
    die "gs://$1 could not be mounted"
  until mountpoint -q "$place"; do
    [ "$SECONDS" -lt "$until" ] || die "gs://$1 could not be mounted; see $RUN/gcsfuse-$1.log. Does the bucket exist, and may the TPU's service account use it (roles/storage.objectUser)?"
    sleep 0.2
  done
}

do_setup() {
  local bucket="$1" commit="$2" probe old="$HOME/jaxllava"
  mkdir -p "$RUN"
  ! is_running || die "a run is under way; launch/tpu.sh stop ends it"
  if [ -e "$old" ] && [ ! -f "$old/.from-launch" ]; then
    die "$old was not put there by launch/tpu.sh and is left alone; move it away"
  fi
  for kept in .venv .venv-cache; do # so that only what changed is installed again
    [ ! -d "$old/$kept" ] || mv "$old/$kept" "$ROOT/$kept"
  done
  rm -rf "$old"
  echo "$commit" >"$ROOT/.from-launch"
  mv "$ROOT" "$old" || die "$old could not be made"
  # env.sh found the old place.
  ROOT="$old" VENV="$old/.venv" STAMP="$old/.venv/jaxllava.stamp" LOG="$old/.venv-cache/install.log"
  ensure_gcsfuse
  mount_bucket "$bucket"
  probe="$HOME/gcs/$bucket/.jaxllava-$(hostname)"
  # Synced, for only then it is uploaded, and may be refused.
  { echo "$commit" | dd of="$probe" conv=fsync && rm "$probe"; } 2>/dev/null ||
    die "gs://$bucket cannot be written to; give the TPU's service account roles/storage.objectUser on it"
  ensure_python
  ensure_env tpu
  "$VENV/bin/python" -c 'import jax, libtpu' 2>>"$RUN/setup.log" || die "jax for TPUs does not load; see $RUN/setup.log"
  echo "jaxllava: $(hostname): ready with commit $commit"
}

# The look's own lock is a shared one, so that two looks do not see a run in each other.
is_running() {
  [ -f "$RUN/lock" ] && ! flock -ns "$RUN/lock" true
}

is_run_of() {
  [ "$1" = "$(cat "$RUN/id" 2>/dev/null)" ]
}

# One start or stop after the other, so that each finds a run either begun, with its id, or not.
wait_turn() {
  mkdir -p "$RUN"
  exec 8>>"$RUN/turn"
  flock -w 60 8 || die "another start of a run does not end; see $RUN/train.log"
}

do_state() {
  local found=idle
  if is_running; then
    found=running
  elif [ -f "$RUN/ended" ]; then
    found="$(cat "$RUN/ended")"
  elif [ -f "$RUN/pid" ]; then
    found=lost
  fi
  echo "jaxllava-worker $(hostname) $found"
}

do_start() {
  wait_turn
  if is_run_of "$1"; then # gcloud repeats a command whose connection broke
    do_state
    return
  fi
  ! is_running || die "a run is under way"
  rm -f "$RUN/pid" "$RUN/ended"
  # Its own session, no terminal, deaf to hangups: the ssh that began it may go.
  setsid nohup bash "${BASH_SOURCE[0]}" run "$@" </dev/null >>"$RUN/train.log" 2>&1 8>&- &
  until [ -f "$RUN/pid" ]; do
    kill -0 "$!" 2>/dev/null || [ -f "$RUN/pid" ] || die "the run did not begin; see $RUN/train.log"
    sleep 0.05
  done
  do_state
}

do_stop() {
  wait_turn
  if is_running && { [ -z "${1:-}" ] || is_run_of "$1"; }; then
    kill -TERM "$(cat "$RUN/pid")" 2>/dev/null
    flock -w 600 "$RUN/lock" true || die "the run has not ended after ten minutes; see $RUN/train.log"
  fi
  do_state
}

# -- the run itself: holds the lock, and leaves how it ended ------------------------------------------------------------

CHILD="" ENDING=0

end_child() {
  ENDING=1
  [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null
}

# Runs a command so that a signal reaches it and not only this shell, and gives its exit status.
attend() {
  local status
  "$@" 9>&- &
  CHILD="$!"
  [ "$ENDING" = 0 ] || end_child
  wait "$CHILD"
  status=$?
  while kill -0 "$CHILD" 2>/dev/null; do # `wait` ended because of a signal
    wait "$CHILD"
    status=$?
  done
  CHILD=""
  return "$status"
}

# Sets RECORDS to where the records of gs://$1 are to be read: a copy in $2 where there is room for it, else the mount.
# ArrayRecord reads single records in random order, for which each is a request to the bucket.
local_records() {
  local source="${1%/}" needed free parent cache
  RECORDS="$2/$source"
  needed="$(gcloud storage du -s "gs://$source" | awk 'END {printf "%.0f", $1 / 1024 + 1}')"
  mkdir -p "$RECORDS"
  free="$(($(df -Pk "$RECORDS" | awk 'END {print $4}') + $(du -sk "$RECORDS" | cut -f1)))"
  if [ "$((needed + RESERVE))" -gt "$free" ]; then
    echo "note: gs://$source has $((needed / 1048576)) GiB, $2 room for $(((free - RESERVE) / 1048576)): its records are read over the network; a larger DATA_DIR is faster"
    rmdir -p "$RECORDS" 2>/dev/null
    RECORDS="$HOME/gcs/$source"
    return
  fi
  echo "copying gs://$source to $RECORDS"
  mirror "gs://$source" "$RECORDS" --delete-unmatched-destination-objects || return 1
  parent="${source%/*}" cache="$HOME/gcs/${source%/*}/cache"
  if [ "$parent" != "$source" ] && [ -d "$cache" ]; then # tokens that lie beside the records already
    mkdir -p "$2/$parent/cache"
    mirror "gs://$parent/cache" "$2/$parent/cache"
  fi
}

mirror() {
  attend gcloud storage rsync -r "$@" --no-user-output-enabled
}

do_run() {
  local id="$1" data_dir="${2:-$HOME/data}" word workdir="" next="" bucket status=0
  local -a words
  words=()
  shift 2
  exec 9>>"$RUN/lock"
  flock -w 5 9 || die "a run is under way" # a look holds it for a moment
  trap end_child TERM INT
  trap '[ -f "$RUN/ended" ] || echo "failed 1" >"$RUN/ended"' EXIT
  echo "$id" >"$RUN/id"
  echo "$$" >"$RUN/pid"
  printf '== %s %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(cat "$ROOT/.from-launch" 2>/dev/null)" "$*"
  ulimit -n "$(ulimit -Hn)" 2>/dev/null
  for bucket in $(printf '%s\n' "$@" | grep -oE 'gs://[a-z0-9._-]+' | sort -u); do
    (mount_bucket "${bucket#gs://}") || status=1
  done
  for word in "$@"; do
    case "$word" in
      --config.data=gs://*)
        if [ "$status" = 0 ]; then
          local_records "${word#--config.data=gs://}" "$data_dir" || status=1
          word="--config.data=$RECORDS"
        fi
        ;;
    esac
    word="${word//gs:\/\//$HOME/gcs/}"
    [ -z "$next" ] || workdir="$word"
    next=""
    case "$word" in
      --workdir) next=1 ;;
      --workdir=*) workdir="${word#*=}" ;;
    esac
    words+=("$word")
  done
  if [ "$status" = 0 ] && [ "$ENDING" = 0 ]; then
    cd "$ROOT" || die "$ROOT is gone"
    # tpu first, so that a TPU which cannot be used is an error and not a run on the host's cores.
    export JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}" PYTHONUNBUFFERED=1
    attend "$VENV/bin/python" -m jaxllava train "${words[@]}"
    status=$?
  fi
  how_it_ended "$status" "$workdir" >"$RUN/ended"
  printf '== %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(cat "$RUN/ended")"
  # The machine's own copy goes with it.
  if [ -d "$workdir" ]; then
    mkdir -p "$workdir/logs" && cp "$RUN/train.log" "$workdir/logs/$(hostname)-$(date -u +%Y%m%dT%H%M%SZ).log"
  fi
}

# A run that was told to end exits with 0 as a finished one does; train.json makes the difference.
how_it_ended() {
  local waited=0
  while [ "$1" = 0 ] && [ "$ENDING" = 0 ] && [ ! -f "$2/train.json" ] && [ "$waited" -lt 10 ]; do
    waited=$((waited + 1)) # the first host may be writing it yet
    sleep 0.2
  done
  if [ "$1" = 0 ] && [ -f "$2/train.json" ]; then
    echo finished
  elif [ "$1" = 0 ] || [ "$ENDING" = 1 ]; then
    echo stopped
  else
    echo "failed $1"
  fi
}

job="${1:-}"
[ $# -eq 0 ] || shift
case "$job" in
  setup | start | state | stop | run) "do_$job" "$@" ;;
  *) die "launch/tpu.sh says what it has a worker do" ;;
esac
