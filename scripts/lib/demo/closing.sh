# Act 2 of scripts/demo: POSTs to a server that is closing its idle connections. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# All clients send one POST each, so many times, and IDLE milliseconds and a little more in between: then some connections have
# been closed, some are being closed, and some are not. How many are lost depends on the machine, so there are more rounds if stock
# nginx has lost none; this module gets as many.
IDLE=200 POSTING=200 TIMES=25 JITTER=16 MOST_ROUNDS=4

declare -gA POSTS LOST ARRIVED

fewer_posts() { POSTING=150 TIMES=10; }

act_closing() {
    local round rounds=1
    act 2 "A server that closes idle connections" "The server closes connections that have been idle for $IDLE ms, and $POSTING clients \
send POSTs around these moments; nginx sends a GET again if its connection turns out to be closed, but no POST."
    row "" "" "" "" "arrived at"
    row "" POSTs answered lost "the server"
    head -c 100 /dev/zero >"$TEMP/body"

    start_posting "$STOCK"
    post "$STOCK"
    while ((${LOST[$STOCK]} == 0 && rounds < MOST_ROUNDS)); do
        rounds=$((rounds + 1))
        post "$STOCK"
    done
    posting_row "$STOCK"

    start_posting "$OURS"
    for ((round = 0; round < rounds; round++)); do post "$OURS"; done
    posting_row "$OURS"
    judge_closing
}

# start_posting KIND
start_posting() {
    start_nginx_with "$1" "$KEPT"
    write_times >"$TEMP/times"
    POSTS[$1]=0 LOST[$1]=0
}

# post KIND: a round.
post() {
    load "$1" -c "$POSTING" --timing-script-file="$TEMP/times" --data="$TEMP/body"
    POSTS[$1]=$((${POSTS[$1]} + POSTING * TIMES)) LOST[$1]=$((${LOST[$1]} + POSTING * TIMES - ANSWERED))
}

# posting_row KIND
posting_row() {
    ARRIVED[$1]=$(server_count requests)
    row "$1" "$(thousands "${POSTS[$1]}")" "$(thousands $((${POSTS[$1]} - ${LOST[$1]})))" "$(thousands "${LOST[$1]}")" \
        "$(thousands "${ARRIVED[$1]}")"
}

# What each client does: a line for each POST, with the millisecond in which it is sent; the first milliseconds after IDLE are the
# most likely ones. The numbers are the same each time.
write_times() {
    awk -v uri="http://127.0.0.1:$NGINX_PORT/post" -v times="$TIMES" -v idle="$IDLE" -v jitter="$JITTER" 'BEGIN {
        srand(1)
        for (i = 0; i < times; i++) {
            printf "%.3f\t%s\n", at, uri
            at += idle + jitter * rand() ^ 2
        }
    }'
}

judge_closing() {
    verdict "Stock nginx lost $(thousands "${LOST[$STOCK]}") of $(thousands "${POSTS[$STOCK]}") POSTs, this module \
$(thousands "${LOST[$OURS]}"). (It closes idle connections before the server does, and sends again what the server cannot have got.)" \
        "${LOST[$STOCK]} > 0" "stock nginx loses POSTs" \
        "${LOST[$OURS]} == 0" "this module loses none" \
        "${ARRIVED[$OURS]} == ${POSTS[$OURS]}" "each POST arrives once with this module"
}
