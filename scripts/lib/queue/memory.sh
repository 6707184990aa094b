# What a request that waits costs in memory; no valgrind here. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

STATES=(hanging waiting)

# measure_waiters N: sets BYTES at each state, the growth of the worker's resident memory for each client from N clients to
# twice as many. Hanging requests have each a connection to a server that does not answer; all but four waiting ones
# have none.
measure_waiters() {
    local state folder port nginx worker few
    declare -gA BYTES
    (($(ulimit -n) > 5 * $1)) || die "a process may have no more than $(ulimit -n) open files (ulimit -n)"
    start_until_stopped hanging perl "$LIB/queue/hanging.pl"
    HANGING_PORT=$(head -n 1 "$TEMP/hanging.out")
    for state in "${STATES[@]}"; do
        step "memory: $1 and $((2 * $1)) clients, $state"
        folder=$TEMP/memory-$state port=$(free_port)
        if [[ $state == hanging ]]; then
            write_queue_configuration "$folder" "$port" "$HANGING_PORT" ours '' '' ''
        else
            write_queue_configuration "$folder" "$port" "$HANGING_PORT" ours '' max_conns=4 "queue $((2 * $1));"
        fi
        start_nginx "$folder"
        nginx=$PID worker=$(pgrep -P "$PID")
        add_clients "$port" "$1" "$1"
        few=$(resident "$worker")
        add_clients "$port" "$1" $((2 * $1))
        BYTES[$state]=$((($(resident "$worker") - few) * 1024 / $1))
        check_sockets "$state" "$worker" $((2 * $1))
        stop_pid "$nginx"
    done
}

# add_clients PORT NUMBER TOTAL: comes back when nginx works at the requests of all.
add_clients() {
    start_until_stopped clients perl "$LIB/queue/clients.pl" "$1" "$2"
    wait_for 60 requests_in_work "$1" "$3" || die "nginx does not work at $3 requests: $(http_get "$1" /status)"
}

# The one that asks is one of them.
requests_in_work() { [[ $(http_get "$1" /status | sed -n 's/.*Writing: \([0-9]*\).*/\1/p') == $(($2 + 1)) ]]; }

# check_sockets STATE PID CLIENTS: is it as it is meant to be?
check_sockets() {
    local sockets expected=$(($3 + 4))
    [[ $1 == waiting ]] || expected=$(($3 * 2))
    # nginx has some more: it listens, and its processes talk to each other.
    sockets=$(sockets "$2")
    ((sockets >= expected && sockets < expected + 10)) || die "the worker has $sockets sockets with $3 clients, $1"
}
