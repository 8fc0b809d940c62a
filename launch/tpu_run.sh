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

# $1 on all workers of all slices at the same time; fails where one of them does.
on_all() {
  local node pid failed=0
  local -a pids
  pids=()
  for node in $(nodes); do
    if [ "$DRY" = 1 ]; then
      on_node "$node" all "$1"
    else
      on_node "$node" all "$1" </dev/null &
      pids+=("$!")
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do
    wait "$pid" || failed=1
  done
  return "$failed"
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
  local node pid failed=0
  local -a flags pids
  flags=("--worker=all")
  pids=()
  [ "$INTERNAL_IPS" = no ] || flags+=(--internal-ip)
  for node in $(nodes); do
    if [ "$DRY" = 1 ]; then
      gcloud_tpus tpu-vm scp "$STATE/code.tgz" "$node:jaxllava-code.tgz" "${flags[@]}"
    else
      gcloud_tpus tpu-vm scp "$STATE/code.tgz" "$node:jaxllava-code.tgz" "${flags[@]}" </dev/null &
      pids+=("$!")
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do
    wait "$pid" || failed=1
  done
  [ "$failed" = 0 ] ||
    die "the checkout could not be copied to all workers; with several workers gcloud needs the key in an agent: eval \"\$(ssh-agent)\"; ssh-add ~/.ssh/google_compute_engine"
  on_all "rm -rf jaxllava-new && mkdir jaxllava-new && tar -xzf jaxllava-code.tgz -C jaxllava-new && bash jaxllava-new/launch/tpu_worker.sh setup $(quoted "$BUCKET" "$1")" ||
    die "a worker could not be set up; it says why above, and the same command goes on"
  [ "$DRY" = 1 ] || say "all workers have commit $1; launch/tpu.sh train is next"
}

# What cannot work on a pod is refused here, where it costs nothing.
check_train() {
  local word key value workdir="" next=""
  for word in ${TRAIN[@]+"${TRAIN[@]}"}; do
    if [ -n "$next" ]; then
      workdir="$word"
      next=""
      continue
    fi
    case "$word" in
      --workdir) next=1 ;;
      --workdir=*) workdir="${word#*=}" ;;
      --config.data=* | --config.base=* | --config.vision_tower=* | --config.decoder=*)
        key="${word%%=*}" value="${word#*=}"
        case "$value" in
          "" | gs://?*) ;;
          *) die "$key=$value is a path of this machine, and the workers have no such folder: gcloud storage rsync -r $value gs://$BUCKET/..., then give $key=gs://$BUCKET/..." ;;
        esac
        ;;
    esac
  done
  case "$workdir" in
    "gs://$BUCKET/"?*) ;;
    "") die "train needs --workdir gs://$BUCKET/...: checkpoints have to outlive the machines" ;;
    *) die "--workdir $workdir: it has to be in the bucket of the settings, gs://$BUCKET/..., which all workers share and which outlives them" ;;
  esac
  for word in "${TRAIN[@]}"; do
    [ "$word" != --distributed ] || return 0
  done
  TRAIN+=(--distributed)
}

do_train() {
  check_train
  need_active
  refuse_second
  keep "$STATE/train" "$(quoted "${TRAIN[@]}")"
  start
}

refuse_second() {
  worker_states || die "not all workers answered; ssh says why above"
  [ "$DRY" = 0 ] || return 0
  ! any_is running || die "a run is under way on $NAME; launch/tpu.sh logs -f follows it, stop ends it"
  ! any_is bare || die "$NAME has no checkout yet; launch/tpu.sh setup puts it there"
}

# The run of TRAIN on every worker. One that cannot be reached leaves the others waiting: they are ended again.
start() {
  if ! on_all "$THERE start $(quoted "${DATA_DIR:-}" "${TRAIN[@]}")"; then
    on_all "$THERE stop" >/dev/null 2>&1
    die "the run could not be started on all workers, and was ended on the others; see above, then give the same command again"
  fi
  [ "$DRY" = 1 ] || say "started; launch/tpu.sh logs -f follows it, and watch resumes it until it is finished"
}

do_stop() {
  need_active
  on_all "$THERE stop" || die "not all workers answered; give launch/tpu.sh stop again"
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

do_resume() {
  load_train
  look_or_die SUSPENDED
  until [ "$REQUEST" != SUSPENDING ] && [ "$REQUEST" != DELETING ]; do
    say "$NAME is $REQUEST; waiting for its end"
    sleep "$POLL"
    look_or_die SUSPENDED
  done
  case "$REQUEST" in
    FAILED | SUSPENDED)
      [ "$DRY" = 1 ] || is_ours || die "$(not_ours)"
      remove
      ;;
    ACTIVE)
      is_ours || die "$(not_ours)"
      worker_states || die "not all workers answered; ssh says why above"
      ! any_is running || die "a run is under way on $NAME; launch/tpu.sh logs -f follows it"
      if ! any_is bare; then
        start
        return
      fi
      ;;
  esac
  do_create
  # The code that the run began with: a checkout may have moved on.
  if [ -f "$STATE/code.tgz" ] || [ "$DRY" = 1 ]; then
    send_code "$(cat "$STATE/commit" 2>/dev/null)"
  else
    do_setup
  fi
  start
}

load_train() {
  if [ -f "$STATE/train" ]; then
    eval "TRAIN=($(cat "$STATE/train"))" # written by `quoted`
  elif [ "$DRY" = 1 ]; then
    TRAIN=(--workdir "gs://$BUCKET/RUN" --distributed)
  else
    die "no run was started on $NAME from this checkout; launch/tpu.sh train starts one"
  fi
}

# Looks every $POLL seconds. A run that fails by itself is not tried again; one whose machines went away is.
do_watch() {
  local left="$RESUMES" odd=0
  load_train
  while :; do
    if look ACTIVE; then
      case "$REQUEST" in
        ACTIVE)
          is_ours || [ "$DRY" = 1 ] || die "$(not_ours)"
          worker_states || say "not all workers answered"
          if [ "$DRY" = 1 ]; then
            if [ "$THEN_DELETE" = 1 ]; then do_delete; fi
            return 0
          fi
          if any_is running; then
            odd=0
          elif any_is finished && ! any_is 'failed|bare|idle'; then
            say "the run is finished: $(printf '%s' "${TRAIN[*]}" | grep -o 'gs://[^ ]*' | tail -n 1)"
            if [ "$THEN_DELETE" = 1 ]; then YES=1 && do_delete; else say "$NAME goes on costing until launch/tpu.sh delete"; fi
            return 0
          else
            # A host that is taken away ends first, and the request says so later.
            odd=$((odd + 1))
            [ "$odd" -gt 3 ] || { sleep "$POLL" && continue; }
            ! any_is failed || die "the run failed ($(printf '%s' "$STATES" | tr '\n' ';')); launch/tpu.sh logs --worker all says why. $NAME goes on costing until launch/tpu.sh delete"
            again
          fi
          ;;
        SUSPENDED | FAILED | absent)
          [ -n "$(our_token)" ] || die "$NAME was deleted; nothing is watched any more"
          again
          ;;
        *) say "$NAME is $REQUEST" ;;
      esac
    else
      say "gcloud cannot look at $NAME: $REQUEST_ERROR"
    fi
    sleep "$POLL"
  done
}

# One resume of those that watch has; an unsuccessful one counts as well. Not in this shell, which `die` would end.
again() {
  [ "$left" -gt 0 ] || die "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}, and all $RESUMES resumes are used; launch/tpu.sh watch goes on, delete ends it"
  left=$((left - 1))
  odd=0
  say "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}; resuming, $left resumes left"
  (do_resume) || say "that resume did not succeed"
}
