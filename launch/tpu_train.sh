# shellcheck shell=bash
# shellcheck disable=SC2153 # settings and flags are variables of tpu.sh
# `train` of tpu.sh: what cannot work on a pod is refused here, where it costs nothing. Sourced by tpu.sh.

do_train() {
  check_train
  need_active
  refuse_second
  note_other_code
  keep "$STATE/train" "$(quoted "${TRAIN[@]}")"
  start
}

refuse_second() {
  worker_states || die "not all workers answered; ssh says why above"
  [ "$DRY" = 0 ] || return 0
  ! any_is running || die "a run is under way on $NAME; launch/tpu.sh logs -f follows it, stop ends it"
  ! any_is bare || die "$NAME has no checkout yet; launch/tpu.sh setup puts it there"
}

# The workers' code is what `setup` sent, whatever has been written here since.
note_other_code() {
  local sent
  [ "$DRY" = 0 ] && sent="$(cat "$STATE/commit" 2>/dev/null)" || return 0
  if [ "$sent" != "$(git -C "$ROOT" rev-parse HEAD 2>/dev/null)" ] || [ -n "$(git -C "$ROOT" status --porcelain 2>/dev/null)" ]; then
    say "note: the workers have commit $sent, this checkout has moved on; launch/tpu.sh setup brings it"
  fi
}

# Sets WORKDIR of what TRAIN says, and CONFIG.
read_train() {
  local word next=""
  WORKDIR="" CONFIG=""
  for word in ${TRAIN[@]+"${TRAIN[@]}"}; do
    case "$next$word" in
      --workdir | --config) next="$word=" && continue ;;
      --workdir=*) WORKDIR="$next$word" && WORKDIR="${WORKDIR#*=}" ;;
      --config=*) CONFIG="$next$word" && CONFIG="${CONFIG#*=}" ;;
    esac
    next=""
  done
}

check_train() {
  local word data="" distributed=""
  read_train
  case "$WORKDIR" in
    "gs://$BUCKET/"?*) ;;
    "") die "train needs --workdir gs://$BUCKET/...: checkpoints have to outlive the machines" ;;
    *) die "--workdir $WORKDIR: it has to be in the bucket of the settings, gs://$BUCKET/..., which all workers share and which outlives them" ;;
  esac
  for word in "${TRAIN[@]}"; do
    case "$word" in
      --config.data | --config.base | --config.vision_tower | --config.decoder | --config.init)
        die "$word: give it and its value as one word, $word=..."
        ;;
      --config.data=* | --config.base=* | --config.vision_tower=* | --config.decoder=*)
        [ -z "${word#*=}" ] || check_path "${word%%=*}" "${word#*=}"
        ;;
      --config.init=*) check_init "$word" ;;
    esac
    case "$word" in
      --config.data=?*) data=1 ;;
      --distributed) distributed=1 ;;
    esac
  done
  [ -n "$data" ] || die "train needs --config.data=gs://$BUCKET/...: the records that jaxllava prepare wrote"
  check_config
  [ -n "$distributed" ] || TRAIN+=(--distributed)
}

# $1 is a key, $2 a path that it names.
check_path() {
  case "$2" in
    gs://?*) ;;
    *) die "$1=$2 is a path of this machine, and the workers have no such folder: gcloud storage rsync -r $2 gs://$BUCKET/..., then give $1=gs://$BUCKET/..." ;;
  esac
}

# Rules are pairs ('pattern', 'folder'): a folder is a string that ends a pair.
check_init() {
  local ends=", *[rR]?['\"][^'\"]+['\"] *,? *[])]" before="s/^[^'\"]*['\"]//" after="s/['\"].*//" path
  path="$(printf '%s\n' "$1" | grep -oE "$ends" | sed "$before; $after" | grep -v '^gs://.' | head -n 1)"
  [ -z "$path" ] || check_path --config.init "$path"
}

# What --config names has to be in the commit that the workers have, or will have: as a path in the checkout, or as a
# name of one of configs/.
check_config() {
  local path="${CONFIG%%:*}" commit name
  [ -n "$path" ] || return 0
  commit="$(cat "$STATE/commit" 2>/dev/null)"
  commit="$(git -C "$ROOT" rev-parse -q --verify "${commit:-HEAD}^{commit}" 2>/dev/null)" || return 0
  name="${path#configs/}"
  for name in "$path" "configs/${name%.py}.py"; do
    [ "$(git -C "$ROOT" cat-file -t "$commit:$name" 2>/dev/null)" != blob ] || return 0
  done
  die "--config $path is no file of commit $commit, which is what the workers have: put it into this checkout, commit it, and launch/tpu.sh setup brings it"
}
