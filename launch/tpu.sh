#!/usr/bin/env bash
# Trains on Cloud TPU VMs, from a laptop: makes the machines, puts this checkout on them, runs, follows, deletes.
#
#   launch/tpu.sh create            asks for the TPU and waits until it is there
#   launch/tpu.sh setup             puts the committed checkout and its environment on every worker, mounts the bucket
#   launch/tpu.sh train ...         `jaxllava train ... --distributed` on every worker, detached; gs:// paths work
#   launch/tpu.sh status            what the TPU is doing, and each worker
#   launch/tpu.sh logs [-f]         the log of worker 0; --worker N or all, --lines N, --slice N
#   launch/tpu.sh stop              ends the run after its current step, with a checkpoint
#   launch/tpu.sh resume            after a preemption: deletes what is left of ours, create, setup, the same train
#   launch/tpu.sh watch             resumes until the run is finished; --resumes N at most; --then-delete
#   launch/tpu.sh delete [--yes]    what `create` made, and nothing else
#
#   --dry-run         with any of them: prints every command, as it can be run, and runs none (watch: of one look)
#   --settings FILE   in place of launch/tpu.env (see tpu.example.env); --zone X and so on win over it
#   --committed       setup, resume: leaves uncommitted changes out, which are otherwise an error
#
# docs/tpu.md leads through the first day. Bash 3.2 and up, and the Google Cloud CLI.
set -uo pipefail

# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=launch/tpu_request.sh
source "$ROOT/launch/tpu_request.sh"
# shellcheck source=launch/tpu_run.sh
source "$ROOT/launch/tpu_run.sh"
# shellcheck source=launch/tpu_train.sh
source "$ROOT/launch/tpu_train.sh"
# shellcheck source=launch/tpu_watch.sh
source "$ROOT/launch/tpu_watch.sh"

COMMANDS="create setup train status logs stop resume watch delete"
REQUIRED="PROJECT ZONE ACCELERATOR RUNTIME PROVISIONING NAME BUCKET"
OPTIONAL="SLICES WAIT_MINUTES DATA_DIR NETWORK SUBNETWORK SERVICE_ACCOUNT INTERNAL_IPS"
POLL="${JAXLLAVA_TPU_POLL:-30}"     # seconds between two looks at something that is waited for
MINUTE="${JAXLLAVA_TPU_MINUTE:-60}" # seconds; tests have shorter ones

die() {
  printf 'tpu.sh: %s\n' "$*" >&2
  exit 1
}

say() {
  printf 'tpu.sh: %s\n' "$*" >&2
}

# A word as any POSIX shell reads it back.
quote() {
  case "$1" in
    "" | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
  esac
}

quoted() {
  local word separator=""
  for word in "$@"; do
    printf '%s' "$separator"
    quote "$word"
    separator=" "
  done
}

# Runs a command; in a dry run prints it.
try() {
  if [ "$DRY" = 1 ]; then
    quoted "$@"
    echo
    return 0
  fi
  "$@"
}

run() {
  try "$@" || die "failed: $(quoted "$@")"
}

# Writes a small file of the state, with the folders above it.
keep() {
  if [ "$DRY" = 1 ]; then
    printf 'mkdir -p %s && printf %s %s >%s\n' "$(quote "$STATE")" "'%s\\n'" "$(quote "$2")" "$(quote "$1")"
    return 0
  fi
  if ! { mkdir -p "$STATE" && printf '%s\n' "$2" >"$1"; }; then
    die "$1 cannot be written"
  fi
}

# Removes small files of the state.
forget() {
  try rm -f "$@"
}

# Two commands that change one TPU at the same time would undo each other's work. Held until this shell ends.
lock() {
  [ "$DRY" = 0 ] || return 0
  mkdir -p "$STATE" || die "$STATE cannot be written"
  mkdir "$STATE/lock" 2>/dev/null ||
    die "another tpu.sh is at work on $NAME (a watch that resumes?); end it first. If there is none: rmdir $(quote "$STATE/lock")"
  trap 'rmdir "$STATE/lock"' EXIT
  heed_interrupts # of a subshell too, which `watch` resumes in
}

# gcloud handles Ctrl-C itself, and then Bash takes it as dealt with and goes on: `watch` would never end.
heed_interrupts() {
  trap 'exit 130' INT
}

random() {
  od -An -N8 -tx1 /dev/urandom | tr -d ' \n'
}

# Sets ANSWER to what a command prints and, where it fails, PROBLEM to one line of what it says: warnings are no answer.
ask() {
  local errors status=0
  errors="$(mktemp)" || die "no temporary file can be made"
  ANSWER="$("$@" 2>"$errors" | tr '\n' ' ')" || status=1
  ANSWER="${ANSWER% }"
  PROBLEM="$(tr '\n' ' ' <"$errors")"
  PROBLEM="${PROBLEM% }"
  rm -f "$errors"
  return "$status"
}

gcloud_tpus() {
  local group="$1" verb="$2"
  shift 2
  try gcloud compute tpus "$group" "$verb" "$@" "--project=$PROJECT" "--zone=$ZONE"
}

in_words() {
  case " $2 " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

# Takes KEY=VALUE lines for what no flag has set.
read_settings() {
  local line key number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line="${line%$'\r'}"
    case "$line" in "" | \#*) continue ;; esac
    key="${line%%=*}"
    if [ "$key" = "$line" ] || ! in_words "$key" "$REQUIRED $OPTIONAL"; then
      die "$1, line $number: '$line' is not KEY=VALUE of a setting that launch/tpu.example.env has"
    fi
    in_words "$key" "$GIVEN" || printf -v "$key" '%s' "${line#*=}"
  done <"$1"
}

# $1 is the setting, $2 a pattern (extended regular expression) of its whole value, $3 what it should be.
check() {
  local value="${!1}"
  if [ -z "$value" ]; then
    PROBLEMS="${PROBLEMS}$1 is not set ($3)"$'\n'
  elif ! [[ $value =~ ^($2)$ ]]; then
    PROBLEMS="${PROBLEMS}$1=$value is not $3"$'\n'
  fi
}

check_settings() {
  PROBLEMS=""
  check PROJECT '[a-z][a-z0-9:.-]*[a-z0-9]' "the id of your Google Cloud project: gcloud projects list"
  check ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone that has the TPU, such as us-west4-a: gcloud compute tpus locations list"
  check ACCELERATOR 'v[0-9]+[a-z]*-[0-9]+' "a type and size, such as v5litepod-32"
  check RUNTIME '[a-z0-9.-]+' "the TPU's software, such as v2-alpha-tpuv5-lite; tpu.example.env has a list"
  check PROVISIONING 'spot|on-demand|reserved' "spot, on-demand or reserved: how it is paid for"
  check NAME '[a-z]([a-z0-9-]{0,40}[a-z0-9])?' "a name in lower case, letters first, of 42 characters at most"
  BUCKET="${BUCKET#gs://}"
  BUCKET="${BUCKET%/}"
  check BUCKET '[a-z0-9][a-z0-9._-]+' "a bucket's name: docs/tpu.md says how to make one"
  check SLICES '[1-9][0-9]{0,3}' "a number of slices"
  check WAIT_MINUTES '[1-9][0-9]{0,5}' "a number of minutes"
  [ -z "$DATA_DIR" ] || check DATA_DIR '/.+' "a folder of the workers, from / on"
  check INTERNAL_IPS 'yes|no' "yes or no"
  if [ -n "$PROBLEMS" ]; then
    printf '%s' "$PROBLEMS" | sed 's/^/tpu.sh: /' >&2
    say "fill in launch/tpu.env (cp launch/tpu.example.env launch/tpu.env), or give flags such as --project; nothing was done"
    exit 1
  fi
  if [ "$DRY" = 0 ] && ! command -v gcloud >/dev/null 2>&1; then
    die "gcloud is not on PATH; install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then gcloud auth login"
  fi
}

PROJECT="" ZONE="" ACCELERATOR="" RUNTIME="" PROVISIONING="" NAME="" BUCKET=""
SLICES=1 WAIT_MINUTES=120 DATA_DIR="" NETWORK="" SUBNETWORK="" SERVICE_ACCOUNT="" INTERNAL_IPS=no
DRY=0 YES=0 COMMITTED=0 THEN_DELETE=0 FOLLOW=0 WORKER=0 SLICE=0 LINES_SHOWN=50 RESUMES=10
COMMAND="" SETTINGS="" GIVEN=""
TRAIN=()

# Of every command; what else stands after `train` is jaxllava's.
ends=0
while [ $# -gt 0 ]; do
  word="$1"
  shift
  flag="${word%%=*}"
  key=""
  if [ "$ends" = 0 ]; then
    case "$COMMAND $flag" in
      *[[:upper:]_]*) ;;
      *" --settings") key=--settings ;;
      "logs --worker" | "logs --slice" | "logs --lines" | "watch --resumes") key="$flag" ;;
      *" --"*)
        key="$(printf '%s' "${flag#--}" | tr 'a-z-' 'A-Z_')"
        in_words "$key" "$REQUIRED $OPTIONAL" || key=""
        ;;
    esac
  fi
  if [ -n "$key" ]; then
    if [ "$word" = "$flag" ]; then
      [ $# -gt 0 ] || die "$flag needs a value"
      value="$1"
      shift
    else
      value="${word#*=}"
    fi
    case "$key" in
      --settings) SETTINGS="$value" ;;
      --worker) WORKER="$value" ;;
      --slice) SLICE="$value" ;;
      --lines) LINES_SHOWN="$value" ;;
      --resumes) RESUMES="$value" ;;
      *)
        printf -v "$key" '%s' "$value"
        GIVEN="$GIVEN $key"
        ;;
    esac
  elif [ "$ends" = 0 ] && [ "$word" = --dry-run ]; then
    DRY=1
  elif [ "$COMMAND" = train ]; then
    if [ "$ends" = 0 ] && [ "$word" = -- ]; then ends=1; else TRAIN+=("$word"); fi
  elif [ -z "$COMMAND" ] && in_words "$word" "$COMMANDS"; then
    COMMAND="$word"
  else
    case "$COMMAND $word" in
      "delete --yes") YES=1 ;;
      "setup --committed" | "resume --committed" | "watch --committed") COMMITTED=1 ;;
      "watch --then-delete") THEN_DELETE=1 ;;
      "logs -f" | "logs --follow") FOLLOW=1 ;;
      *" -h" | *" --help" | " help")
        sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
        exit 0
        ;;
      " "*) die "'$word' is not a command; give one of: $COMMANDS" ;;
      *) die "$COMMAND does not know '$word'; launch/tpu.sh --help lists what there is" ;;
    esac
  fi
done
[ -n "$COMMAND" ] || die "give a command: $COMMANDS; launch/tpu.sh --help says what each does"

if [ -n "$SETTINGS" ]; then
  [ -f "$SETTINGS" ] || die "--settings $SETTINGS does not exist"
  read_settings "$SETTINGS"
elif [ -f "$ROOT/launch/tpu.env" ]; then
  read_settings "$ROOT/launch/tpu.env"
fi
for key in WORKER SLICE LINES_SHOWN RESUMES; do
  [ "$key ${!key}" != "WORKER all" ] || continue
  [[ ${!key} =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
    die "--$(printf '%s' "${key%_SHOWN}" | tr '[:upper:]' '[:lower:]') '${!key}': a number is needed"
done
check_settings
# What this checkout made, and the run that belongs to it: `delete` and `resume` go by it.
STATE="$ROOT/.tpu/$PROJECT/$ZONE/$NAME"

heed_interrupts
case "$COMMAND" in create | setup | train | stop | resume | delete) lock ;; esac
"do_$COMMAND"
