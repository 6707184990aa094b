# What `scripts/bench queue`, `auth`, `stale` and `streams` share: instructions per request of the nginx that runs in FOLDER
# under callgrind, at COUNTED_PORT. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_counting_needs() {
    note_callgrind_needs
    need "h2load" nghttp2-client have h2load
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

# More options of h2load.
SEND_OPTIONS=()

# The kind of the status that all answers have.
STATUS_KIND=2xx

# send_requests NUMBER URI CLIENTS: sets TOTAL, the instructions, and WAITED, the number of waits that began.
send_requests() {
    local out=$FOLDER/h2load.out
    rm -f "$FOLDER"/callgrind.out.*
    h2load --h1 -n "$1" -c "$3" "${SEND_OPTIONS[@]}" "http://127.0.0.1:$COUNTED_PORT$2" >"$out" 2>&1 </dev/null
    grep -q "^status codes:.* $1 $STATUS_KIND" "$out" || die "requests failed: $(cat "$out" "$FOLDER/error.log")"
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
