# `scripts/bench queue`: what limits and waiting cost. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FEW=500 MANY=2500 TIMES=5 WAITING=32 WAITERS=2000 FEW_LATE=200 MANY_LATE=1000

bench_queue() {
    begin_bench note_counting_needs "FEW=200 MANY=600 TIMES=1 WAITERS=1000 FEW_LATE=100 MANY_LATE=300" "$@"

    print_counting_machine
    say "counted    $((MANY - FEW)) requests each, after warming up; with several clients the median of $TIMES times"
    say
    ulimit -Sn "$(ulimit -Hn)"
    start_app bench-app
    measure_unqueued
    measure_queued
    measure_servers
    measure_waiters "$WAITERS"
    print_unqueued
    print_queued
    print_servers
    print_waiters
}

# write_queue_configuration FOLDER PORT APP_PORT KIND ZONE LIMIT QUEUE
write_queue_configuration() {
    local load=''
    [[ $4 == stock ]] || load="load_module $OUR_MODULE;"
    rm -rf "$1"
    mkdir -p "$1"
    fill_in "$ROOT/nginx-conf/bench-queue.conf" LOAD_MODULE "$load" FOLDER "$1" TEMP_PATHS "$(temp_paths "$NGINX" "$1")" \
        PORT "$2" APP_PORT "$3" ZONE "${5:+zone app 2m;}" LIMIT "$6" QUEUE "$7" CONNECTIONS $((3 * 2 * WAITERS)) \
        >"$1/nginx.conf"
}

print_unqueued() {
    local name
    say
    printf '%-50s %9s %9s\n' "instructions per request, nobody waits" "no zone" zone
    for name in "${UNQUEUED[@]}"; do
        unqueued_row "$name" %9d "${COUNT[$name ]}" "${COUNT[$name zone]}"
    done
    ratio_row "max_conns / without, stock" "stock, max_conns" stock ""
    ratio_row "max_conns / without, ours" "ours, max_conns" ours ""
    ratio_row "ours / stock" ours stock ""
    ratio_row "ours / stock, both with max_conns" "ours, max_conns" "stock, max_conns" ""
    ratio_row "queue / without" "ours, max_conns, queue" "ours, max_conns" "<= 1.01"
}

unqueued_row() { printf "%-50s $2 $2 %9s\n" "$1" "$3" "$4" "${5:-}"; }

ratio_row() {
    unqueued_row "$1" %9s "$(quotient "${COUNT[$2 ]}" "${COUNT[$3 ]}")" \
        "$(quotient "${COUNT[$2 zone]}" "${COUNT[$3 zone]}")" "$4"
}

print_queued() {
    local limit zone uri at
    say
    printf '%-34s %9s %9s %9s %9s\n' "instructions per request" "no wait" wait ratio aim
    for uri in "${URIS[@]}"; do
        for zone in '' zone; do
            for limit in "${LIMITS[@]}"; do
                at="$uri $limit $zone"
                printf '%-34s %9d %9d %9s %9s\n' "${uri#/} max_conns=$limit${zone:+, zone}" "${COUNT[one $at]}" \
                    "${COUNT[all $at]}" "$(quotient "${COUNT[all $at]}" "${COUNT[one $at]}")" "<= 1.10"
            done
        done
    done
    say "(no wait: as many clients as connections; wait: $WAITING clients, and all but the first requests have waited)"
}

print_waiters() {
    say
    printf '%-50s %9s\n' "resident memory for each further client, bytes" "growth"
    printf '%-50s %9d\n' "its server does not answer" "${BYTES[hanging]}"
    printf '%-50s %9d\n' "it waits" "${BYTES[waiting]}"
    printf '%-50s %9d\n' "difference" $((BYTES[waiting] - BYTES[hanging]))
    say "(from $WAITERS clients to $((2 * WAITERS)); a client's connection and request are included)"
}
