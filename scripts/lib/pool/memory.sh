# The resident memory of one worker that holds many idle connections; no valgrind here. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Sets RSS, in kB, at "KIND empty" and "KIND full".
measure_memory() {
    local kind folder port worker
    declare -gA RSS
    for kind in stock ours; do
        step "memory: $1 idle connections, $kind"
        folder=$TEMP/memory-$kind port=$(free_port)
        write_pool_configuration "$kind" "$1" "$folder" "$port" $(($1 + REQUESTS))
        start_nginx "$folder"
        wait_for 5 http_get "$port" /ready >/dev/null 2>&1 || die "nginx does not answer: $(cat "$folder/error.log")"
        worker=$(pgrep -P "$PID")
        RSS[$kind empty]=$(resident "$worker")
        send_pattern fill "$1" "$folder" "$port"
        (($(sockets "$worker") >= $1)) || die "the worker of $kind does not hold $1 connections"
        RSS[$kind full]=$(resident "$worker")
        stop_pid "$PID"
    done
}
