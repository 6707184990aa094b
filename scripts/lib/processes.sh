# Starting and stopping processes: only what a script started itself, and only by pid. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Notes a process to be stopped when the script ends.
remember_pid() { at_exit "stop_pid $1"; }

is_running() { [[ -n ${1:-} ]] && kill -0 "$1" 2>/dev/null; }

# Asks politely, waits up to five seconds, then insists.
stop_pid() {
    local pid=$1 i
    is_running "$pid" || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    for ((i = 0; i < 50; i++)); do
        is_running "$pid" || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

# A process and what it started in turn, parents first.
process_tree() {
    local child
    echo "$1"
    for child in $(pgrep -P "$1"); do
        process_tree "$child"
    done
}

# Stops a whole tree. All are told at once: a parent that only loses a child may start the next one.
stop_tree() {
    local pid tree
    mapfile -t tree < <(process_tree "$1")
    kill -TERM "${tree[@]}" 2>/dev/null || true
    for pid in "${tree[@]}"; do
        stop_pid "$pid"
    done
}

# A port that nobody listens on. The range lies below the one from which the kernel takes ports for outgoing
# connections, so that none of those can take it between this question and its use.
free_port() {
    local port i
    for ((i = 0; i < 100; i++)); do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free port found on 127.0.0.1"
}

# wait_for SECONDS COMMAND..: true as soon as the command is, false when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# http_get PORT PATH: the body of a plain HTTP answer from 127.0.0.1, without needing a client program.
http_get() {
    local line fd
    exec {fd}<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&"$fd"
    while IFS= read -r line <&"$fd" && [[ $line != $'\r' ]]; do :; done
    cat <&"$fd"
    exec {fd}>&-
}

# What a process occupies, in kB, and how many sockets it has.
resident() { awk '/^VmRSS:/ {print $2}' "/proc/$1/status"; }

sockets() { find "/proc/$1/fd" -lname 'socket:*' | wc -l; }
