# Running nginx and the scripted backend for demo and benchmark, on free loopback ports. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

BACKEND=$ROOT/target/release/backend

build_backend() {
    step "building the backend"
    CARGO_TARGET_DIR=$ROOT/target quietly "$ROOT/target/build-backend.log" \
        cargo build --manifest-path "$ROOT/Cargo.toml" --release -p backend || die "the backend does not build"
}

# More options of the backend.
BACKEND_OPTIONS=()

# start_backend NAME [ADDRESS..]: sets PID, ADDRESSES where it listens (by default one), PORT, the first one's, and CONTROL,
# the port that tells what the backend counted.
start_backend() {
    local out=$TEMP/$1.out address listens=()
    shift
    for address in "${@:-127.0.0.1:0}"; do listens+=(--listen "$address"); done
    # The process in the background opens its file when it gets to it, which can be later than the first look.
    : >"$out"
    # A session of its own, so that it can go on after the script (scripts/demo --keep).
    setsid "$BACKEND" "${listens[@]}" --control 127.0.0.1:0 "${BACKEND_OPTIONS[@]}" >>"$out" 2>&1 </dev/null &
    PID=$!
    remember_pid "$PID"
    wait_for 5 grep -qx ready "$out" || die "the backend does not start: $(cat "$out")"
    mapfile -t ADDRESSES < <(grep -vx ready "$out")
    CONTROL=${ADDRESSES[-1]##*:}
    unset 'ADDRESSES[-1]'
    PORT=${ADDRESSES[0]##*:}
}

# start_until_stopped NAME COMMAND..: a program that goes on until it is stopped; it says "ready" when it has begun. Sets PID; what it
# says is in TEMP/NAME.out.
start_until_stopped() {
    local out=$TEMP/$1.out
    shift
    # A file of its own: an earlier program of this name has said "ready", too.
    rm -f "$out"
    : >"$out"
    "$@" >>"$out" 2>&1 </dev/null &
    PID=$!
    remember_pid "$PID"
    wait_for 60 is_ready_or_gone "$out" "$PID" || true
    grep -qx ready "$out" || die "this does not start: $*: $(cat "$out")"
}

is_ready_or_gone() { grep -qx ready "$1" || ! is_running "$2"; }

# backend_count CONTROL NAME: one number of the backend's statistics, not of those of HTTP/2, which come last.
backend_count() { http_get "$1" /stats | sed -n "s/^{[^{]*\"$2\":\([0-9]*\).*/\1/p"; }

# fill_in TEMPLATE NAME VALUE..: the template with each @NAME@ replaced.
fill_in() {
    local text
    text=$(cat "$1")
    shift
    while (($#)); do
        text=${text//"@$1@"/"$2"}
        shift 2
    done
    say "$text"
}

# start_nginx FOLDER: with FOLDER/nginx.conf; sets PID.
start_nginx() {
    mkdir -p "$1"
    "$NGINX" -p "$1" -e "$1/error.log" -c "$1/nginx.conf" || die "nginx does not start with $1/nginx.conf: $(cat "$1/error.log")"
    wait_for 5 test -s "$1/nginx.pid" || die "nginx has written no pid file: $(cat "$1/error.log")"
    PID=$(cat "$1/nginx.pid")
    remember_pid "$PID"
}
