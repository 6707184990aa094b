# Counts the instructions of requests that do not wait, and of those that do, under valgrind's callgrind. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

UNQUEUED=(stock "stock, max_conns" ours "ours, max_conns" "ours, max_conns, queue")
URIS=(/proxied /authorised)
LIMITS=(4 1)

# Sets COUNT at "NAME ZONE": one client sends one request after the other, and the limit is never reached.
measure_unqueued() {
    # One client does always the same.
    local name zone limit queue TIMES=1
    declare -gA COUNT
    stop_callgrind_at_exit
    for zone in '' zone; do
        for name in "${UNQUEUED[@]}"; do
            limit='' queue=''
            [[ $name != *max_conns* ]] || limit=max_conns=1000
            [[ $name != *queue* ]] || queue="queue 1000;"
            start_counting "${name%%,*}" "$zone" "$limit" "$queue"
            count_requests /proxied 1 0
            COUNT[$name $zone]=$PER_REQUEST
            stop_callgrind
        done
    done
}

# Sets COUNT at "one URI LIMIT ZONE" and "all URI LIMIT ZONE", of one and the same nginx: with as many clients as
# connections nobody waits, with more clients everybody does.
measure_queued() {
    local zone limit uri
    for zone in '' zone; do
        for limit in "${LIMITS[@]}"; do
            start_counting ours "$zone" "max_conns=$limit" "queue 1000;"
            for uri in "${URIS[@]}"; do
                count_requests "$uri" "$limit" 0
                COUNT[one $uri $limit $zone]=$PER_REQUEST
                count_requests "$uri" "$WAITING" 1
                COUNT[all $uri $limit $zone]=$PER_REQUEST
            done
            stop_callgrind
        done
    done
}

# start_counting KIND ZONE LIMIT QUEUE
start_counting() {
    step "counting: $1${2:+, zone}${3:+, $3}${4:+, queue}"
    start_counting_with_port "$APP_PORT" "$@"
}

# start_counting_with_port APP_PORT KIND ZONE LIMIT QUEUE
start_counting_with_port() {
    FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
    write_queue_configuration "$FOLDER" "$COUNTED_PORT" "$@"
    start_callgrind "$FOLDER" "$COUNTED_PORT"
    control_callgrind --instr=on
}
