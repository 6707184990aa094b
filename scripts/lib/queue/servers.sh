# What waiting costs with many servers, under valgrind's callgrind. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

OUTCOMES=("timed out" granted)
SERVERS=(5 500)

# Sets COUNT at "OUTCOME SERVERS ZONE": instructions per request that waits until it is timed out, or until the only server
# that answers has room. Each server has room for one request, and all others have one that they do not answer.
measure_servers() {
    local number zone outcome
    start_until_stopped servers perl "$LIB/queue/hanging.pl"
    HANGING_PORT=$(head -n 1 "$TEMP/servers.out")
    for zone in '' zone; do
        for number in "${SERVERS[@]}"; do
            for outcome in "${OUTCOMES[@]}"; do
                step "counting: $number servers, $outcome${zone:+, zone}"
                measure_with_servers "$outcome" "$number" "$zone"
                COUNT["$outcome $number $zone"]=$PER_REQUEST
            done
        done
    done
}

# measure_with_servers OUTCOME SERVERS ZONE
measure_with_servers() {
    local app=$HANGING_PORT timeout=5ms hanging=$2
    [[ $1 != granted ]] || app=$APP_PORT timeout=60s hanging=$(($2 - 1))
    start_counting_with_port "$app" ours "$3" "$(limits_of "$2")" "queue 1000 timeout=$timeout;"
    # The balancer goes round: if one answers, it answers once.
    start_until_stopped clients perl "$LIB/queue/clients.pl" "$COUNTED_PORT" "$2"
    wait_for 60 requests_in_work "$COUNTED_PORT" "$hanging" || die "$hanging servers are not occupied"
    if [[ $1 == granted ]]; then
        count_requests /proxied "$WAITING" 1
    else
        # One at a time: nothing is done for several of them at once.
        FEW=$FEW_LATE MANY=$MANY_LATE TIMES=1 STATUS_KIND=5xx count_requests /proxied 1 1
    fi
    stop_callgrind
}

# limits_of SERVERS: the rest of the line of the first server, and the lines of all others but the end of the last one.
limits_of() {
    local at
    printf max_conns=1
    for ((at = 1; at < $1; at++)); do
        printf ' max_fails=0; server 127.1.%d.%d:%d max_conns=1' $((at / 250)) $((at % 250 + 1)) "$HANGING_PORT"
    done
}

print_servers() {
    local outcome zone few many
    say
    printf '%-34s %9s %9s %9s\n' "instructions per waiting request" "5 servers" "500" more
    for outcome in "${OUTCOMES[@]}"; do
        for zone in '' zone; do
            few=${COUNT[$outcome 5 $zone]} many=${COUNT[$outcome 500 $zone]}
            printf '%-34s %9d %9d %9d\n' "$outcome${zone:+, zone}" "$few" "$many" $((many - few))
        done
    done
    say "(a request that is granted a server includes the balancer's own look at all of them: about 21 for each)"
}
