# Provides the chosen versions of nginx side by side, and remembers each outcome. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Starts to provide all chosen versions, each in the background, with its outcome in a file: the variables, or the reason
# why not. Most of that is waiting for an archive, so the checks of the Rust code go on meanwhile.
start_versions() {
    local key
    declare -gA PROVIDERS=()
    step "providing nginx: ${KEYS[*]} (a first run fetches or compiles them)"
    for key in "${KEYS[@]}"; do
        provide_version "$key" >"$TEMP/$key.log" 2>"$TEMP/$key.errors" &
        PROVIDERS[$key]=$!
    done
    at_exit stop_providers
}

# Those that are still at work: a pid whose process has ended may be somebody else's by now.
stop_providers() {
    local key
    for key in "${KEYS[@]}"; do
        [[ -z ${PROVIDERS[$key]} ]] || stop_tree "${PROVIDERS[$key]}"
    done
}

# await_version KEY: waits until the version is there and sets its variables; false when it cannot be had.
await_version() {
    if [[ -n ${PROVIDERS[$1]} ]]; then
        wait "${PROVIDERS[$1]}" || true
        PROVIDERS[$1]=
        if load_version "$1"; then
            step "nginx $VERSION: $(version_label "$1")"
        else
            sed '/^error: /d' "$TEMP/$1.errors" >&2
            step "skipped: $(version_label "$1"): $REASON"
        fi
    fi
    load_version "$1"
}

provide_version() {
    local key=$1
    # Two runs at once must not unpack into the same folder.
    exec 9>"$CACHE/lock-$key"
    flock 9
    "provide_$key"
    declare -p VERSION BINARY SOURCE_DIR BUILD_DIR >"$TEMP/$key.version"
}

# Sets the variables of a version, or REASON.
load_version() {
    REASON=$(sed -n 's/^error: //p' "$TEMP/$1.errors" | tail -n 1)
    [[ -f $TEMP/$1.version ]] || return 1
    # `declare` inside a function makes local variables, hence the -g.
    eval "$(sed 's/^declare -- /declare -g /' "$TEMP/$1.version")"
}
