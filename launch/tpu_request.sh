# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153 # settings and flags are variables of tpu.sh
# The machines of tpu.sh: the queued resource that it asks for, looks at and deletes. Sourced by tpu.sh.
#
# A request that we made has our label, whose value is a random token that lies in $STATE as well. Only where both are
# there and equal is anything deleted.

LABEL=jaxllava_launch

# Sets REQUEST (absent, or a state of the API such as ACTIVE), REQUEST_TOKEN and REQUEST_ERROR. Fails where gcloud cannot
# say. A dry run sees what $1 says.
look() {
  REQUEST="$1" REQUEST_TOKEN="$(our_token)" REQUEST_ERROR=""
  set -- queued-resources describe "$NAME" \
    "--format=value[separator=\"|\"](state.state,tpu.nodeSpec[0].node.labels.$LABEL,state.failedData.error.message)"
  if [ "$DRY" = 1 ]; then
    gcloud_tpus "$@"
    return 0
  fi
  if ask gcloud_tpus "$@"; then
    REQUEST="${ANSWER%%|*}"
    ANSWER="${ANSWER#*|}"
    REQUEST_TOKEN="${ANSWER%%|*}"
    REQUEST_ERROR="${ANSWER#*|}"
    return 0
  fi
  REQUEST_TOKEN=""
  case "$PROBLEM" in
    *NOT_FOUND* | *"queuedResources/$NAME"*"was not found"*) REQUEST=absent ;;
    *)
      REQUEST=unknown REQUEST_ERROR="${PROBLEM:-gcloud says nothing}"
      return 1
      ;;
  esac
}

look_or_die() {
  look "$1" || die "gcloud cannot look at $NAME: $REQUEST_ERROR"
}

our_token() {
  if [ -f "$STATE/token" ]; then cat "$STATE/token"; fi
}

is_ours() {
  [ -n "$REQUEST_TOKEN" ] && [ "$REQUEST_TOKEN" = "$(our_token)" ]
}

# Dies unless the request is there, ours and ACTIVE.
need_active() {
  look_or_die ACTIVE
  [ "$DRY" = 0 ] || return 0
  case "$REQUEST" in
    absent) die "there is no TPU $NAME in $ZONE; launch/tpu.sh create makes it" ;;
    ACTIVE) is_ours || die "$(not_ours)" ;;
    SUSPENDING | SUSPENDED | FAILED)
      die "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}; launch/tpu.sh resume makes it again and goes on"
      ;;
    *) die "$NAME is $REQUEST; launch/tpu.sh create waits until it is there" ;;
  esac
}

not_ours() {
  printf '%s' "$NAME in $ZONE was not made from this checkout (no label $LABEL with the token of $STATE); it is left alone. Take another NAME"
}

# What the TPU costs from here on; the end of every command that leaves one behind.
costs() {
  case "$REQUEST" in
    ACTIVE | unknown) printf '%s' "$NAME goes on costing until launch/tpu.sh delete" ;;
    *) printf '%s' "$NAME costs from ACTIVE on, until launch/tpu.sh delete" ;;
  esac
}

# The nodes of the request, one a line: a slice is a node.
nodes() {
  local slice
  if [ "$SLICES" -eq 1 ]; then
    echo "$NAME"
    return
  fi
  slice=0
  while [ "$slice" -lt "$SLICES" ]; do
    echo "$NAME-$slice"
    slice=$((slice + 1))
  done
}

# The bucket has to be one in which a folder appears under its name at once, and is best one that is near.
check_bucket() {
  local location
  set -- gcloud storage buckets describe "gs://$BUCKET" --raw \
    "--format=value[separator=\"|\"](location,hierarchicalNamespace.enabled)" "--project=$PROJECT"
  if [ "$DRY" = 1 ]; then
    try "$@"
    return 0
  fi
  ask "$@" || die "gs://$BUCKET cannot be looked at: $PROBLEM"
  case "$ANSWER" in
    *"|"[Tt]rue) ;;
    *)
      die "gs://$BUCKET has no hierarchical namespace, without which renaming a folder is not atomic and a checkpoint may be torn; make another: gcloud storage buckets create gs://NAME --location=${ZONE%-*} --uniform-bucket-level-access --enable-hierarchical-namespace --project=$PROJECT"
      ;;
  esac
  location="$(printf '%s' "${ANSWER%%|*}" | tr '[:upper:]' '[:lower:]')"
  if [ "$location" != "${ZONE%-*}" ]; then
    say "note: gs://$BUCKET is in $location, the TPU will be in ${ZONE%-*}: what it reads is slower, and moving it between regions is charged"
  fi
}

do_create() {
  local token
  check_bucket
  look_or_die absent
  case "$REQUEST" in
    absent)
      token="$(our_token)"
      [ -n "$token" ] || token="$(random)"
      # Before the request: were it made and its token lost, nothing here would ever delete it.
      keep "$STATE/token" "$token"
      request "$token"
      ;;
    FAILED | SUSPENDED)
      is_ours || die "$(not_ours)"
      die "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}; launch/tpu.sh resume makes it again, delete removes it"
      ;;
    DELETING | SUSPENDING) die "$NAME is $REQUEST; try again in some minutes" ;;
    *)
      is_ours || die "$(not_ours)"
      say "$NAME has been asked for already; it is $REQUEST"
      ;;
  esac
  wait_active
}

request() {
  local -a command
  command=(queued-resources create "$NAME" "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME")
  if [ "$SLICES" -gt 1 ]; then
    command+=("--node-count=$SLICES" "--node-prefix=$NAME")
  else
    command+=("--node-id=$NAME")
  fi
  case "$PROVISIONING" in
    spot) command+=(--spot) ;;
    reserved) command+=(--reserved) ;;
  esac
  [ -z "$NETWORK" ] || command+=("--network=$NETWORK")
  [ -z "$SUBNETWORK" ] || command+=("--subnetwork=$SUBNETWORK")
  [ -z "$SERVICE_ACCOUNT" ] || command+=("--service-account=$SERVICE_ACCOUNT")
  [ "$INTERNAL_IPS" = no ] || command+=(--internal-ips)
  command+=("--labels=$LABEL=$1" "--valid-until-duration=PT${WAIT_MINUTES}M" --async)
  gcloud_tpus "${command[@]}" || die "the TPU could not be asked for; gcloud says why above. Quota: see docs/tpu.md"
}

wait_active() {
  local until told=""
  until=$((SECONDS + WAIT_MINUTES * MINUTE))
  while :; do
    if look ACTIVE; then
      # From here on it is there, and where it is gone again, somebody deleted it.
      [ "$REQUEST" = absent ] || forget "$STATE/remaking"
      case "$REQUEST" in
        ACTIVE)
          [ "$DRY" = 1 ] || say "$NAME is ACTIVE, and costs from now on until launch/tpu.sh delete"
          return 0
          ;;
        FAILED | SUSPENDED | absent)
          die "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}; launch/tpu.sh resume asks again, another ZONE or PROVISIONING may have more"
          ;;
      esac
    fi
    [ "$told" = "$REQUEST" ] || say "$NAME is $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}"
    told="$REQUEST"
    if [ "$SECONDS" -ge "$until" ]; then
      die "$NAME is still $REQUEST after $WAIT_MINUTES minutes, when the request ends by itself; see launch/tpu.sh status, then resume to ask again or delete. $(costs)"
    fi
    sleep "$POLL"
  done
}

do_status() {
  look_or_die ACTIVE
  if [ "$DRY" = 0 ]; then
    echo "$NAME ($ACCELERATOR x $SLICES, $PROVISIONING, $ZONE): $REQUEST${REQUEST_ERROR:+ ($REQUEST_ERROR)}"
    [ "$REQUEST" = absent ] || is_ours || echo "not made from this checkout"
  fi
  if [ "$REQUEST" = ACTIVE ]; then
    worker_states || say "not all workers answered; ssh says why above"
    [ "$DRY" = 1 ] || { printf '%s\n' "$STATES" && say "$(costs)"; }
  fi
}

do_delete() {
  local answer
  look_or_die "ACTIVE"
  if [ "$DRY" = 0 ] && [ "$REQUEST" = absent ]; then
    forget "$STATE/token" "$STATE/remaking"
    say "there is no TPU $NAME in $ZONE: nothing to delete, and nothing of it costs"
    return 0
  fi
  [ "$DRY" = 1 ] || is_ours || die "$(not_ours)"
  if [ "$DRY" = 0 ] && [ "$YES" = 0 ]; then
    [ -t 0 ] || die "delete asks first; give --yes where nobody can answer"
    printf 'Delete the TPU %s in %s with its disks? A run on it ends at its last checkpoint. [yes/no] ' "$NAME" "$ZONE" >&2
    read -r answer
    [ "$answer" = yes ] || die "nothing was deleted"
  fi
  remove
  forget "$STATE/token" "$STATE/remaking"
  say "gs://$BUCKET and what is in it stay, and cost what storage costs"
}

# Deletes the request, which is ours, and its nodes.
remove() {
  gcloud_tpus queued-resources delete "$NAME" --force --quiet ||
    die "$NAME could not be deleted and may go on costing; gcloud says why above. Give launch/tpu.sh delete again"
  look_or_die absent
  [ "$REQUEST" = absent ] ||
    die "$NAME is $REQUEST after its deletion, and may go on costing; look at it with launch/tpu.sh status"
  [ "$DRY" = 1 ] || say "$NAME is deleted"
}
