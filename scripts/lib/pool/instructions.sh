# Counts the instructions of `get` and `free` under valgrind's callgrind. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

PATTERNS=(hot cyclic random miss)
# Those of a whole request, which is meant to find a connection.
WHOLE_PATTERNS=(hot cyclic random)

# Sets at "KIND SIZE PATTERN": GET and FREE, instructions per call; REQUEST, those of the whole request; and for one and for the
# most idle peers SMALL, those of a whole request with 204, without the balancer's own, and BLOCKS, the blocks of its memory pool.
measure_hooks() {
    local kind size
    declare -gA GET FREE REQUEST SMALL BLOCKS
    for size in "${SIZES[@]}"; do
        for kind in stock ours; do
            step "counting: $size idle peers, $kind"
            count_patterns "$kind" "$size"
        done
    done
    for kind in stock ours; do
        step "counting: 204, 1 and $LARGEST idle peers, $kind"
        count_small "$kind" 1
        count_small "$kind" "$LARGEST"
    done
}

# begin_counting KIND SIZE SERVERS: the pool is filled while callgrind does not count. Sets FOLDER and COUNTED_PORT.
begin_counting() {
    FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
    write_pool_configuration "$1" "$2" "$FOLDER" "$COUNTED_PORT" "$3"
    start_callgrind "$FOLDER" "$COUNTED_PORT"
    send_pattern fill "$2" "$FOLDER" "$COUNTED_PORT"
    control_callgrind --instr=on
}

# Each pattern is counted by itself.
count_patterns() {
    local pattern at
    begin_counting "$1" "$2" $(($2 + REQUESTS))
    for pattern in "${PATTERNS[@]}"; do
        at="$1 $2 $pattern"
        send_pattern "$pattern" "$2" "$FOLDER" "$COUNTED_PORT"
        control_callgrind --dump="$pattern"
        read -r "GET[$at]" "FREE[$at]" "REQUEST[$at]" _ < <(read_counts "$FOLDER" "$pattern") || true
        [[ -n ${REQUEST[$at]:-} ]] || die "callgrind did not count: $at"
    done
    stop_callgrind
}

# Always with the same servers, so that only the idle connections differ: the balancer's data grow with the servers.
count_small() {
    local pattern at all balancer
    begin_counting "$1" "$2" "$PEERS"
    for pattern in "${WHOLE_PATTERNS[@]}"; do
        at="$1 $2 $pattern"
        send_small "$pattern" "$2" "$FOLDER" "$COUNTED_PORT"
        control_callgrind --dump="$pattern"
        read -r _ _ all balancer < <(read_counts "$FOLDER" "$pattern") || true
        [[ -n ${balancer:-} ]] || die "callgrind did not count: $at, 204"
        SMALL[$at]=$((all - balancer))
        BLOCKS[$at]=$(quotient "$(calls_in "$(dump_of "$FOLDER" "$pattern")" ngx_palloc_block)" "$REQUESTS")
    done
    stop_callgrind
}

# read_counts FOLDER PATTERN: what the calls of the hooks cost, without what their calls of the balancer's cost; the whole request;
# and the balancer's part of it. In callgrind's tree a function's own line has a `*`, and a line with `>` follows for each function
# that it calls.
read_counts() {
    local file
    file=$(dump_of "$1" "$2")
    callgrind_annotate --auto=no --show-percs=no --threshold=100 --inclusive=yes --tree=calling "$file" 2>/dev/null |
        awk -v n="$REQUESTS" '
            {gsub(",", "", $1)}
            /PROGRAM TOTALS/ {total = $1}
            $2 == "*" {inside = /[:_]get_keepalive_peer \[/ ? "get" : /[:_]free_keepalive_peer \[/ ? "free" : ""}
            $2 == ">" && /[:_]get_keepalive_peer \(/ {count["get"] += $1}
            $2 == ">" && /[:_]free_keepalive_peer \(/ {count["free"] += $1}
            $2 == ">" && inside && /_(get|free)_(hash|round_robin)_peer \(/ {count[inside] -= $1; balancer += $1}
            END {
                if (count["get"] && count["free"])
                    printf "%.0f %.0f %.0f %.0f\n", count["get"] / n, count["free"] / n, total / n, balancer / n
            }'
}
