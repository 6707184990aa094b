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
    FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
    write_queue_configuration "$FOLDER" "$COUNTED_PORT" "$APP_PORT" "$@"
    start_callgrind "$FOLDER" "$COUNTED_PORT"
    control_callgrind --instr=on
}

# count_requests URI CLIENTS WAIT: sets PER_REQUEST, the difference between many and few requests, so that the clients'
# coming and going cancels out. WAIT says whether the requests are meant to. How many events nginx finds at a time is not
# always the same with several clients, hence the median.
count_requests() {
    local few i
    send_requests "$FEW" "$1" "$2"
    PER_REQUEST=$(for ((i = 0; i < TIMES; i++)); do
        send_requests "$FEW" "$1" "$2"
        few=$TOTAL
        send_requests "$MANY" "$1" "$2"
        # The first ones find a connection.
        (($3 ? WAITED > MANY * 95 / 100 : WAITED == 0)) || die "$WAITED of $MANY requests have waited"
        echo $(((TOTAL - few) / (MANY - FEW)))
    done | median)
}

# send_requests NUMBER URI CLIENTS: sets TOTAL, the instructions, and WAITED, the number of waits that began.
send_requests() {
    local out=$FOLDER/h2load.out
    rm -f "$FOLDER"/callgrind.out.*
    h2load --h1 -n "$1" -c "$3" "http://127.0.0.1:$COUNTED_PORT$2" >"$out" 2>&1 </dev/null
    grep -q "^status codes: $1 2xx" "$out" || die "requests failed: $(cat "$out" "$FOLDER/error.log")"
    control_callgrind --dump
    read -r TOTAL WAITED < <(read_totals "$FOLDER"/callgrind.out.*)
    [[ -n ${WAITED:-} ]] || die "callgrind did not count"
}

# read_totals DUMP: all instructions, and the calls of the handler that runs once for each request that begins to wait.
# callgrind gives each function a number and writes its name next to that only the first time.
read_totals() {
    awk '
        /^c?fn=/ {
            id = $1
            sub(/^c?fn=/, "", id)
            if (NF > 1) name[id] = $0
            callee = name[id]
        }
        /^calls=/ && callee ~ /core_has_returned/ {waited += substr($1, 7)}
        /^(summary|totals):/ {total = $2}
        END {if (total) printf "%.0f %.0f\n", total, waited}' "$1"
}
