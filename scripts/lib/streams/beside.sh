# Small requests beside large ones that do not go on, over the same connection. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

SMALL=1000
BESIDE=(stalled unread slow)
declare -gA BESIDE_NAMES=(
    [stalled]="downloads that nobody reads"
    [unread]="uploads that the server does not read"
    [slow]="downloads that are read slowly"
)

# Leaves in TEMP/alone-KIND-WHAT and TEMP/beside-KIND-WHAT the 99th percentile of small requests in each round, in ms. The server is
# one that reads no upload, without TLS.
measure_beside() {
    local round what kind
    HERE_PORT=8081
    # It listens at the near end, where this script does not run.
    start_until_stopped backend "${NEAR[@]}" "$BACKEND" --listen "127.0.0.1:$HERE_PORT" --control 127.0.0.1:0 --protocol http2
    for ((round = 0; round < BESIDE_ROUNDS; round++)); do
        for what in "${BESIDE[@]}"; do
            for kind in "${KINDS[@]}"; do
                beside_round "$kind" "$what"
            done
        done
        step "round $((round + 1)) of $BESIDE_ROUNDS: small requests beside large ones"
    done
}

# beside_round KIND WHAT: with a new nginx, and so with new connections.
beside_round() {
    local folder=$TEMP/near nginx clients
    write_link_configuration "$1" "$folder" 1
    start_nginx_at NEAR "$folder"
    nginx=$PID
    small_requests 100 >/dev/null
    small_requests "$SMALL" >>"$TEMP/alone-$1-$2"
    start_until_stopped beside "${NEAR[@]}" perl "$LIB/streams/beside.pl" "$NEAR_PORT" /here "$2"
    clients=$PID
    small_requests "$SMALL" >>"$TEMP/beside-$1-$2"
    [[ $1 == stock || $(connections_here) == 1 ]] || die "these are not streams of one carrier: $(connections_here) connections"
    is_running "$clients" || die "the other requests have ended: $(cat "$TEMP/beside.out")"
    stop_pid "$clients"
    stop_pid "$nginx"
}

# How many connections to the server are open.
connections_here() {
    awk -v port="$(printf ':%04X' "$HERE_PORT")" '$4 == "01" && substr($3, 9) == port {n++} END {print n + 0}' "/proc/$NEAR_PID/net/tcp"
}

# small_requests NUMBER: one after the other; prints the time in ms that 1 % of them exceed.
small_requests() {
    local out=$TEMP/small.out
    rm -f "$out.log"
    "${NEAR[@]}" h2load --h1 -n "$1" -c 1 --log-file="$out.log" "http://127.0.0.1:$NEAR_PORT/here?body=ok" >"$out" 2>&1 </dev/null
    grep -q "^status codes: $1 2xx" "$out" || die "requests failed: $(cat "$out" "$TEMP/near/error.log")"
    awk '{print $3 / 1000}' "$out.log" | sort -g | awk '{v[NR] = $1} END {print v[int(NR * 0.99)]}'
}

# beside_ratios KIND WHAT: of each round.
beside_ratios() { paste "$TEMP/beside-$1-$2" "$TEMP/alone-$1-$2" | awk '{print $1 / $2}'; }

print_beside() {
    local what kind
    for what in "${BESIDE[@]}"; do
        say
        printf '%-46s %8s %8s %8s\n' "three ${BESIDE_NAMES[$what]}" min median max
        for kind in "${KINDS[@]}"; do
            case_spread "p99 of small requests alone, ms, $kind" '%8.3f' <"$TEMP/alone-$kind-$what"
            case_spread "p99 beside them, ms, $kind" '%8.3f' <"$TEMP/beside-$kind-$what"
            beside_ratios "$kind" "$what" | case_spread "beside / alone, $kind" '%8.3f'
        done
    done
}

print_link_aims() {
    local what
    say
    printf '%-60s %8s %8s\n' "" measured aim
    printf '%-60s %8.3f %8s\n' "ms to the last answer, ours / stock" \
        "$(paste "$TEMP/cold-ours" "$TEMP/cold-stock" | awk '{print $1 / $2}' | median)" "< 1"
    printf '%-60s %8.0f %8s\n' "connections, ours" "$(median <"$TEMP/opened-ours")" "<= 2"
    for what in "${BESIDE[@]}"; do
        printf '%-60s %8.3f %8s\n' "p99 beside ${BESIDE_NAMES[$what]} / alone, ours" "$(beside_ratios ours "$what" | median)" "<= 2"
    done
}
