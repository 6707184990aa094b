# Shared by all scripts: where things are, how to speak to the reader, and what happens at the end. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LIB=$ROOT/scripts/lib
MODULE=ngx_http_upstream_keepalive_rs_module
CACHE=${NGINX_KEEPALIVE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/nginx-upstream-keepalive-rs}

# Cron jobs and `env -i` have neither; nginx lives in sbin, and rustup puts cargo where only a login shell looks.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-}/.cargo}/bin
export PATH

# Under sudo, the toolchain that rustup installed for the calling user serves as well.
if [[ -n ${SUDO_USER:-} ]] && ! command -v cargo >/dev/null; then
    caller_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    PATH=$PATH:$caller_home/.cargo/bin
    export RUSTUP_HOME=${RUSTUP_HOME:-$caller_home/.rustup}
fi

# Messages that scripts read (nginx -V, apt, cargo) must not be translated.
export LC_ALL=C.UTF-8

# use NAME..: reads other parts of this library.
use() {
    local part
    for part; do
        # shellcheck disable=SC1090
        . "$LIB/$part.sh"
    done
}

say() { printf '%s\n' "$*"; }

# One line per step, with the seconds since the script began, so that a long run can be followed.
step() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }

warn() { printf 'warning: %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [[ $EUID -eq 0 ]]; }

# Runs a long command with its output in a log file, and shows the end of that file only when the command fails.
quietly() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 </dev/null && return
    printf 'error: this failed: %s\n' "$*" >&2
    printf 'the end of %s:\n' "$log" >&2
    tail -n 30 "$log" | sed 's/^/    /' >&2
    return 1
}

# The comment block at the top of a script is its help text.
show_help() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# Commands that run when the script ends, for whatever reason, the last one first.
EXIT_ACTIONS=()

at_exit() { EXIT_ACTIONS+=("$*"); }

run_exit_actions() {
    local status=$? i
    trap - EXIT
    trap '' INT TERM
    for ((i = ${#EXIT_ACTIONS[@]} - 1; i >= 0; i--)); do
        eval "${EXIT_ACTIONS[i]}" || true
    done
    exit "$status"
}

trap run_exit_actions EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Makes a folder that lives as long as the script and sets TEMP to its name. An nginx started by root runs its workers
# as another user, who has to get in.
make_temp() {
    TEMP=$(mktemp -d "${TMPDIR:-/tmp}/nginx-keepalive.XXXXXX")
    chmod 755 "$TEMP"
    at_exit "rm -rf '$TEMP'"
}
