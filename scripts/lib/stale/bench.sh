# `scripts/bench stale`: what it costs that no request is lost to a stale connection. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FEW=500 MANY=2500 TIMES=1 ROUNDS=20 EACH=20000 CLIENTS=16
ALL_OFF="keepalive_check off; keepalive_hint off; keepalive_stale_retry off;"
METHODS=(GET POST)

bench_stale() {
    begin_bench note_counting_needs "FEW=200 MANY=600 ROUNDS=4 EACH=5000" "$@"

    print_counting_machine
    say "counted    $((MANY - FEW)) requests each, after warming up; one client, one request after the other"
    say
    start_app bench-app
    head -c 100 /dev/zero >"$TEMP/body"
    stop_callgrind_at_exit
    declare -gA COUNT RATES
    count_stale stock /on
    count_stale ours /on /off /learned
    measure_stale_rates
    print_stale
}

# write_stale_configuration KIND
write_stale_configuration() {
    local load='' off=''
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;" off=$ALL_OFF
    FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
    rm -rf "$FOLDER"
    mkdir -p "$FOLDER"
    fill_in "$ROOT/nginx-conf/bench-stale.conf" LOAD_MODULE "$load" FOLDER "$FOLDER" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$FOLDER")" PORT "$COUNTED_PORT" APP_PORT "$APP_PORT" OFF "$off" \
        >"$FOLDER/nginx.conf"
}

# count_stale KIND URI..: sets COUNT at "KIND URI METHOD", the instructions for a request.
count_stale() {
    local kind=$1 uri method
    shift
    step "counting: $kind"
    write_stale_configuration "$kind"
    start_callgrind "$FOLDER" "$COUNTED_PORT"
    control_callgrind --instr=on
    for uri in "$@"; do
        [[ $uri != /learned ]] || teach
        for method in "${METHODS[@]}"; do
            send_as "$method"
            count_requests "$uri" 1 0
            COUNT[$kind $uri $method]=$PER_REQUEST
        done
    done
    stop_callgrind
}

# The server closes idle connections after a second: the pool learns that.
teach() {
    local i
    for ((i = 0; i < 6; i++)); do
        curl -sS -o "$TEMP/answer" "http://127.0.0.1:$COUNTED_PORT/learned"
        sleep 1.2
    done
    grep -q 'closes idle connections after' "$FOLDER/error.log" || die "the pool has not learned when the server closes"
}

# How requests are sent from now on.
send_as() {
    SEND_OPTIONS=()
    [[ $1 == GET ]] || SEND_OPTIONS=(--data "$TEMP/body")
}

# System calls are no instructions of nginx: how many requests a second it serves, in rounds that alternate.
measure_stale_rates() {
    local method i on off
    step "requests per second"
    write_stale_configuration ours
    start_nginx "$FOLDER"
    for method in "${METHODS[@]}"; do
        send_as "$method"
        RATES[$method]=$(for ((i = 0; i < ROUNDS; i++)); do
            on=$(requests_per_second /on)
            off=$(requests_per_second /off)
            echo "$(quotient "$on" "$off")"
        done | sort -n | xargs)
    done
    stop_pid "$PID"
}

requests_per_second() {
    h2load --h1 -n "$EACH" -c "$CLIENTS" "${SEND_OPTIONS[@]}" "http://127.0.0.1:$COUNTED_PORT$1" 2>&1 </dev/null |
        sed -n 's/^finished in .*, \([0-9.]*\) req\/s,.*/\1/p'
}

print_stale() {
    local method rates
    say
    printf '%-34s %9s %9s %9s %9s %9s %9s\n' "instructions per request" stock off on learned "on/off" aim
    for method in "${METHODS[@]}"; do
        printf '%-34s %9d %9d %9d %9d %9s %9s\n' "$method" "${COUNT[stock /on $method]}" "${COUNT[ours /off $method]}" \
            "${COUNT[ours /on $method]}" "${COUNT[ours /learned $method]}" "$(quotient "${COUNT[ours /on $method]}" "${COUNT[ours /off $method]}")" "<= 1.03"
    done
    say
    printf '%-34s %9s %9s %9s\n' "requests per second, on/off" min median max
    for method in "${METHODS[@]}"; do
        read -ra rates <<<"${RATES[$method]}"
        printf '%-34s %9s %9s %9s\n' "$method" "${rates[0]}" "$(printf '%s\n' "${rates[@]}" | median)" "${rates[-1]}"
    done
    say "($ROUNDS rounds of $EACH requests by $CLIENTS clients, one worker)"
}
