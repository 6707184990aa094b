# Act 1 of scripts/demo: many requests at once, each authorised by another server. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

AT_ONCE=1000 REQUESTS=4000 LIMIT=4

# By name of the row.
declare -gA OPENED SOCKETS FAILED SPEEDS

fewer_authorised() { AT_ONCE=100 REQUESTS=400; }

act_authorised() {
    local http2="$OURS, http2 on" limited="$OURS, max_conns=$LIMIT"
    act 1 "Requests that another server authorises" "$(thousands "$AT_ONCE") clients send $(thousands "$REQUESTS") requests, and \
a server that takes 20 ms and answers with a body authorises each of them; in the last row it gets $LIMIT connections, and \
$LIMIT x 50 = $((LIMIT * 50)) requests a second are the most that they can carry."
    row "" connections "sockets" "" requests
    row "" opened "at a time" failures "per second"
    KEPT="server 127.0.0.1:$SERVER_PORT; keepalive $AT_ONCE;"
    authorised "$STOCK" "$STOCK" "$KEPT"
    authorised "$OURS" "$OURS" "$KEPT"
    authorised "$http2" "$OURS" "server 127.0.0.1:$SERVER_PORT; keepalive 4; http2 on streams=$AT_ONCE connections=1;"
    authorised "$limited" "$OURS" "zone auth 64k; server 127.0.0.1:$SERVER_PORT max_conns=$LIMIT; keepalive $LIMIT; \
queue $AT_ONCE timeout=60s;"
    judge_authorised "$http2" "$limited"
}

# authorised NAME KIND AUTH: a row.
authorised() {
    start_nginx_with "$2" "$3"
    authorised_load "$1"
    OPENED[$1]=$(server_count accepted) SOCKETS[$1]=$(server_count max_open) FAILED[$1]=$((REQUESTS - ANSWERED)) SPEEDS[$1]=$SPEED
    row "$1" "$(thousands "${OPENED[$1]}")" "$(thousands "${SOCKETS[$1]}")" "$(thousands "${FAILED[$1]}")" "$(thousands "$SPEED")"
}

authorised_load() { load "$1" -n "$REQUESTS" -c "$AT_ONCE" "http://127.0.0.1:$NGINX_PORT/"; }

# judge_authorised HTTP2 LIMITED: the names of two rows.
judge_authorised() {
    local failed=$((${FAILED[$OURS]} + ${FAILED[$1]} + ${FAILED[$2]}))
    verdict "Stock nginx opened $(thousands "${OPENED[$STOCK]}") connections, this module $(thousands "${OPENED[$OURS]}") for \
$(ratio "${SPEEDS[$OURS]}" "${SPEEDS[$STOCK]}") times as many requests a second, and ${OPENED[$1]} with HTTP/2 in $WORKERS workers for \
$(ratio "${SPEEDS[$1]}" "${SPEEDS[$STOCK]}") times as many. With max_conns=$LIMIT, ${SOCKETS[$2]} were open at a time. Requests that \
failed with this module: $failed." \
        "${OPENED[$OURS]} < ${OPENED[$STOCK]}" "this module opens fewer connections" \
        "${OPENED[$1]} <= WORKERS" "HTTP/2 opens one connection in each worker at most" \
        "${SOCKETS[$2]} <= LIMIT" "there are $LIMIT connections at most" \
        "failed == 0" "this module answers each request"
}
