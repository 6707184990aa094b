# `scripts/bench streams link`: 200 requests at once to a TLS server far away, from cold. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

DELAY=50 AT_ONCE=200 LINK_ROUNDS=7 BESIDE_ROUNDS=7
NEAR_ADDRESS=198.18.7.1 FAR_ADDRESS=198.18.7.2

bench_streams_link() {
    KINDS=(stock ours)
    begin_bench note_link_needs "LINK_ROUNDS=3 BESIDE_ROUNDS=3" "$@"
    build_backend

    print_counting_machine
    say "link       a round trip of $((2 * DELAY)) ms; TLS, one worker"
    say
    start_link
    measure_cold_starts
    measure_beside
    print_cold_starts
    print_beside
    print_link_aims
}

note_link_needs() {
    note_compiler_needs
    note_nginx_needs
    need "root, for network namespaces" "" is_root
    need "flock" util-linux have flock
    need "unshare and nsenter" util-linux have nsenter
    need "ip" iproute2 have ip
    need "h2load" nghttp2-client have h2load
    need "openssl" openssl have openssl
}

# Sets NEAR and FAR, the words that run a command at either end, and starts the far server.
start_link() {
    local ends folder=$TEMP/far
    start_until_stopped link perl "$LIB/streams/link.pl" "$DELAY"
    mapfile -t ends <"$TEMP/link.out"
    NEAR_PID=${ends[0]} FAR_PID=${ends[1]}
    NEAR=(nsenter -t "$NEAR_PID" -n) FAR=(nsenter -t "$FAR_PID" -n)
    # The script runs at neither end: no port there is in use.
    FAR_PORT=8443
    mkdir -p "$folder"
    make_certificate far "$folder"
    fill_in "$ROOT/nginx-conf/bench-streams-far.conf" FOLDER "$folder" TEMP_PATHS "$(temp_paths "$NGINX" "$folder")" \
        USER "user root;" FAR "$FAR_ADDRESS" FAR_PORT "$FAR_PORT" >"$folder/nginx.conf"
    start_nginx_at FAR "$folder"
}

# start_nginx_at END FOLDER: start_nginx at one end of the link, NEAR or FAR.
start_nginx_at() {
    local -n end=$1
    "${end[@]}" "$NGINX" -p "$2" -e "$2/error.log" -c "$2/nginx.conf" ||
        die "nginx does not start with $2/nginx.conf: $(cat "$2/error.log")"
    wait_for 5 test -s "$2/nginx.pid" || die "nginx has written no pid file: $(cat "$2/error.log")"
    PID=$(cat "$2/nginx.pid")
    remember_pid "$PID"
}

# write_link_configuration KIND FOLDER CONNECTIONS
write_link_configuration() {
    local load='' http2=''
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;" http2="http2 on connections=$3;"
    rm -rf "$2"
    mkdir -p "$2"
    fill_in "$ROOT/nginx-conf/bench-streams-link.conf" LOAD_MODULE "$load" FOLDER "$2" USER "user root;" HTTP2 "$http2" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$2")" PORT "$NEAR_PORT" FAR "$FAR_ADDRESS" FAR_PORT "$FAR_PORT" \
        HERE_PORT "$HERE_PORT" CERTIFICATE "$TEMP/far/far.crt" >"$2/nginx.conf"
}

# Leaves in TEMP/cold-KIND and TEMP/opened-KIND one number for each round: the time to the last answer in ms, and the connections.
measure_cold_starts() {
    local round i kind
    # Nothing is sent there.
    NEAR_PORT=8080 HERE_PORT=1
    for ((round = 0; round < LINK_ROUNDS; round++)); do
        for ((i = 0; i < 2; i++)); do
            kind=${KINDS[(round + i) % 2]}
            cold_start "$kind"
        done
        step "round $((round + 1)) of $LINK_ROUNDS, ms to the last of $AT_ONCE answers: $(for kind in "${KINDS[@]}"; do
            printf '%s %.0f (%d connections)  ' "$kind" "$(tail -n 1 "$TEMP/cold-$kind")" "$(tail -n 1 "$TEMP/opened-$kind")"
        done)"
    done
}

# cold_start KIND: with a new nginx.
cold_start() {
    local folder=$TEMP/near before out=$TEMP/h2load.out
    write_link_configuration "$1" "$folder" 2
    start_nginx_at NEAR "$folder"
    before=$(far_connections)
    "${NEAR[@]}" h2load --h1 -n "$AT_ONCE" -c "$AT_ONCE" --log-file="$out.log" "http://127.0.0.1:$NEAR_PORT/far" \
        >"$out" 2>&1 </dev/null
    grep -q "^status codes: $AT_ONCE 2xx" "$out" || die "requests failed: $(cat "$out" "$folder/error.log")"
    # From the first request to the last answer: the beginning of each, and how long it took, in microseconds.
    awk 'NR == 1 || $1 < begin {begin = $1} $1 + $3 > end {end = $1 + $3} END {print (end - begin) / 1000}' "$out.log" \
        >>"$TEMP/cold-$1"
    say $(($(far_connections) - before)) >>"$TEMP/opened-$1"
    rm -f "$out.log"
    stop_pid "$PID"
}

# How many connections the kernel at the far end has accepted so far.
far_connections() { awk '/^Tcp:/ {if (n++) print $7}' "/proc/$FAR_PID/net/snmp"; }

print_cold_starts() {
    local kind
    say
    printf '%-34s %8s %8s %8s\n' "$AT_ONCE requests at once, from cold" min median max
    for kind in "${KINDS[@]}"; do
        spread "ms to the last answer, $kind" '%8.0f' <"$TEMP/cold-$kind"
    done
    for kind in "${KINDS[@]}"; do
        spread "connections, $kind" '%8.0f' <"$TEMP/opened-$kind"
    done
}
