# The two sides of `scripts/bench pool`: the peers, and the nginx with the pool. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# connections N: worker_connections for N sockets. nginx closes idle clients when less than a sixteenth is free.
connections() { echo $(($1 + $1 / 4 + 100)); }

# peer_addresses: one line for each peer. They differ by address and share one port, as no machine has ten thousand
# ports in a row to spare.
peer_addresses() {
    awk -v n="$PEERS" -v port="$APP_PORT" \
        'BEGIN {for (i = 0; i < n; i++) printf "127.1.%d.%d:%d\n", i / 250, i % 250 + 1, port}'
}

start_peers() {
    local first folder each
    # A process may not have enough descriptors for the listening and the accepted sockets of all peers.
    each=$(($(ulimit -n) / 3))
    ((each < PEERS)) || each=$PEERS
    APP_PORT=$(free_port)
    step "starting $PEERS peers"
    peer_addresses >"$TEMP/peers"
    for ((first = 0; first < PEERS; first += each)); do
        folder=$TEMP/app-$first
        mkdir -p "$folder"
        tail -n +$((first + 1)) "$TEMP/peers" | sed -n "1,$each s/.*/listen &;/p" >"$folder/listen.conf"
        fill_in "$ROOT/nginx-conf/bench-pool-app.conf" FOLDER "$folder" TEMP_PATHS "$(temp_paths "$NGINX" "$folder")" \
            CONNECTIONS "$(connections $((2 * each)))" >"$folder/nginx.conf"
        start_nginx "$folder"
    done
}

# write_pool_configuration KIND SIZE FOLDER PORT SERVERS: a pool for SIZE connections before so many peers.
write_pool_configuration() {
    local load=''
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;"
    rm -rf "$3"
    mkdir -p "$3"
    head -n "$5" "$TEMP/peers" | sed 's/.*/server &;/' >"$3/servers.conf"
    fill_in "$ROOT/nginx-conf/bench-pool.conf" LOAD_MODULE "$load" FOLDER "$3" PORT "$4" KEEPALIVE "$2" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$3")" CONNECTIONS "$(connections "$2")" >"$3/nginx.conf"
}

# send_pattern PATTERN SIZE FOLDER PORT: fails when the pool did not do what the pattern is there to show.
send_pattern() {
    local wanted reused
    case $1 in
        fill | miss) wanted=0 ;;
        *) wanted=$REQUESTS ;;
    esac
    reused=$(pattern "$1" "$2" | perl "$LIB/pool/requests.pl" "$4" "$3/servers.conf") ||
        die "requests failed (pattern $1, $2 idle peers): $(tail -n 3 "$3/error.log")"
    ((reused == wanted)) ||
        die "pattern $1 with $2 idle peers reused $reused connections, not $wanted"
}

# send_small PATTERN SIZE FOLDER PORT: the same with 204. A new connection would be seen in the figures.
send_small() {
    pattern "$1" "$2" | perl "$LIB/pool/requests.pl" "$4" "$3/servers.conf" 204 ||
        die "requests failed (pattern $1, $2 idle peers, 204): $(tail -n 3 "$3/error.log")"
}

# pattern PATTERN SIZE: the numbers of the peers, in the order of the requests. Random is the same for stock and ours.
pattern() {
    case $1 in
        fill) seq 0 $(($2 - 1)) ;;
        hot) each_request 'n - 1' "$2" ;;
        cyclic) each_request 'i % n' "$2" ;;
        random) each_request 'int(rand() * n)' "$2" ;;
        miss) each_request 'n + i' "$2" ;;
    esac
}

# each_request EXPRESSION SIZE: awk's expression for each request i.
each_request() { awk -v n="$2" -v r="$REQUESTS" "BEGIN {srand(1); for (i = 0; i < r; i++) print $1}"; }
