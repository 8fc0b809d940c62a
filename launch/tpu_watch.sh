# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153 # settings and flags are variables of tpu.sh
# `resume` and `watch` of tpu.sh: how a run goes on after its machines went away. Sourced by tpu.sh.
#
# A preemption leaves a request that is SUSPENDED; one that is absent was deleted by somebody, and is not made again
# unless `resume` is given by hand. $STATE/remaking tells a resume's own deletion, after which it may have ended, from
# those.

BLIND_MINUTES=60 # that watch waits for a gcloud which cannot look: a network that is away, credentials that ran out

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
      keep "$STATE/remaking" "$WORKDIR"
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
    absent) [ "$COMMAND" != watch ] || heed_deletion ;;
  esac
  do_create
  # The code that the run began with: a checkout may have moved on.
  if [ -f "$STATE/code.tgz" ] && [ -f "$STATE/commit" ]; then
    send_code "$(cat "$STATE/commit")"
  elif [ "$DRY" = 1 ]; then
    send_code COMMIT
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
  read_train
}

heed_deletion() {
  [ -f "$STATE/remaking" ] || die "$NAME was deleted; nothing is watched any more"
}

# Looks every $POLL seconds. A run that fails by itself is not tried again; one whose machines went away is.
do_watch() {
  LEFT="$RESUMES" ODD=0 BLIND=""
  load_train
  while :; do
    if look ACTIVE; then
      BLIND=""
      case "$REQUEST" in
        ACTIVE)
          is_ours || [ "$DRY" = 1 ] || die "$(not_ours)"
          if watch_run; then
            end_watch
            return
          fi
          ;;
        SUSPENDED | FAILED)
          is_ours || die "$(not_ours)"
          again
          ;;
        absent)
          heed_deletion
          again
          ;;
        *) say "$NAME is $REQUEST" ;;
      esac
    else
      say "gcloud cannot look at $NAME: $REQUEST_ERROR"
      BLIND="${BLIND:-$SECONDS}"
      [ "$((SECONDS - BLIND))" -lt "$((BLIND_MINUTES * MINUTE))" ] ||
        die "gcloud has not been able to look for $BLIND_MINUTES minutes, nothing is watched any more: gcloud auth login, then launch/tpu.sh watch. $(costs)"
    fi
    sleep "$POLL"
  done
}

# What the workers of an ACTIVE request are at. Succeeds where the run is finished.
watch_run() {
  local answered=yes
  worker_states || { answered=no && say "not all workers answered"; }
  [ "$DRY" = 0 ] || return 0
  if any_is running; then
    ODD=0
    return 1
  fi
  if any_is finished && ! any_is 'failed|bare|idle'; then
    return 0
  fi
  # A host that is taken away ends first, and the request says so later.
  ODD=$((ODD + 1))
  [ "$ODD" -gt 3 ] || return 1
  if [ "$answered" = yes ]; then
    # After a resume of ours it may be that one which did not get as far as the start.
    if [ "$LEFT" = "$RESUMES" ] && all_are idle; then
      die "no run was started on these machines; launch/tpu.sh train starts one, resume the last one ($WORKDIR). $(costs)"
    fi
    # Where one host was lost or told to end, the others failed because of it.
    if any_is failed && ! any_is 'lost|stopped|bare'; then
      die "the run failed ($(printf '%s' "$STATES" | tr '\n' ';')); launch/tpu.sh logs --worker all says why. $(costs)"
    fi
  fi
  again
  return 1
}

end_watch() {
  [ "$DRY" = 1 ] || say "the run is finished: $WORKDIR/model"
  if [ "$THEN_DELETE" = 1 ]; then
    YES=1
    lock
    do_delete
  elif [ "$DRY" = 0 ]; then
    say "$(costs)"
  fi
}

# One resume of those that watch has; an unsuccessful one counts as well. Not in this shell, which `die` would end, and
# which keeps nobody out while it only looks.
again() {
  local why="$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}"
  [ "$LEFT" -gt 0 ] || die "$why, and all $RESUMES resumes are used; launch/tpu.sh watch goes on, delete ends it. $(costs)"
  LEFT=$((LEFT - 1))
  ODD=0
  say "$why; resuming $WORKDIR, $LEFT resumes left"
  (lock && do_resume) || say "that resume did not succeed"
}
