# `scripts/bench pool`: what the pool itself costs, stock beside ours. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

SIZES=(1 32 1000 10000) REQUESTS=500

bench_pool() {
    begin_bench note_pool_needs "SIZES=(1 32 1000) REQUESTS=100" "$@"
    limit_sizes

    print_pool_machine
    stop_callgrind_at_exit
    measure_whole_requests
    start_peers
    measure_hooks
    measure_memory "$LARGEST"
    print_whole_requests
    print_small_requests
    print_instructions
    print_memory
    print_pool_aims
}

note_pool_needs() {
    note_callgrind_needs
    need "Perl's Compress::Zlib" perl perl -MCompress::Zlib -e 1
}

# Leaves out the sizes for which a process may not open enough sockets. Sets LARGEST, and PEERS, which includes those
# that have no idle connection when they are asked for.
limit_sizes() {
    local size fitting=()
    ulimit -Sn "$(ulimit -Hn)"
    for size in "${SIZES[@]}"; do
        if (($(ulimit -n) >= $(connections "$size"))); then
            fitting+=("$size") LARGEST=$size
        else
            say "skipped: $size idle peers, as a process may have no more than $(ulimit -n) open files (ulimit -n)"
        fi
    done
    SIZES=("${fitting[@]}")
    PEERS=$((LARGEST + REQUESTS))
}

print_pool_machine() {
    print_counting_machine
    say "counted    $REQUESTS requests of one client for each size and pattern, after the pool was filled"
    say
}

print_instructions() {
    local size pattern stock ours
    say
    say "instructions per call, inclusive, without the balancer's own"
    printf '%10s  %-8s %9s %9s   %9s %9s\n' "idle peers" pattern "get stock" "get ours" "free stock" "free ours"
    for size in "${SIZES[@]}"; do
        for pattern in "${PATTERNS[@]}"; do
            stock="stock $size $pattern" ours="ours $size $pattern"
            printf '%10d  %-8s %9d %9d   %10d %9d\n' "$size" "$pattern" \
                "${GET[$stock]}" "${GET[$ours]}" "${FREE[$stock]}" "${FREE[$ours]}"
        done
    done
}

print_small_requests() {
    local size pattern base=${SMALL[stock 1 hot]}
    say
    say "instructions per request, 204, $PEERS servers, without the balancer's own"
    printf '%10s  %-8s %9s %9s   %9s %9s   %12s %12s\n' "idle peers" pattern stock ours "to stock" "to one" "blocks stock" "blocks ours"
    for size in 1 "$LARGEST"; do
        for pattern in "${WHOLE_PATTERNS[@]}"; do
            printf '%10d  %-8s %9d %9d   %9s %9s   %12s %12s\n' "$size" "$pattern" "${SMALL[stock $size $pattern]}" \
                "${SMALL[ours $size $pattern]}" \
                "$(quotient "${SMALL[ours $size $pattern]}" "${SMALL[stock $size $pattern]}")" \
                "$(quotient "${SMALL[ours $size $pattern]}" "$base")" \
                "${BLOCKS[stock $size $pattern]}" "${BLOCKS[ours $size $pattern]}"
        done
    done
    say "(to stock in the same case, and to stock with one idle peer; blocks: calls of ngx_palloc_block)"
}

print_memory() {
    local kind
    say
    printf '%-34s %9s %9s %9s\n' "resident memory of the worker, kB" "at start" "full" "growth"
    for kind in stock ours; do
        printf '%-34s %9d %9d %9d\n' "$LARGEST idle connections, $kind" "${RSS[$kind empty]}" "${RSS[$kind full]}" \
            $((${RSS[$kind full]} - ${RSS[$kind empty]}))
    done
}

print_pool_aims() {
    local size pattern case get=0 free=0 ratio
    for size in "${SIZES[@]}"; do
        for pattern in "${PATTERNS[@]}"; do
            ((${GET[ours $size $pattern]} <= get)) || get=${GET[ours $size $pattern]}
            ratio=$(quotient "${FREE[ours $size $pattern]}" "${FREE[stock $size $pattern]}")
            free=$(printf '%s\n' "$free" "$ratio" | sort -g | tail -n 1)
        done
    done
    say
    printf '%-46s %9s %9s\n' "" measured aim
    printf '%-46s %9d %9s\n' "get, ours, the highest" "$get" "<= 250"
    printf '%-46s %9s %9s\n' "free, ours / stock, the highest" "$free" "<= 1"
    printf '%-46s %9s %9s\n' "memory when full, ours / stock" "$(quotient "${RSS[ours full]}" "${RSS[stock full]}")" ""
    printf '%-46s %9s %9s\n' "minimal request, one server, ours / stock" \
        "$(quotient "${WHOLE[ours minimal one]}" "${WHOLE[stock minimal one]}")" "<= 1.03"
    printf '%-46s %9s %9s\n' "the same, $LARGEST idle peers / stock with one" \
        "$(quotient "$(highest_small)" "${SMALL[stock 1 hot]}")" "<= 1.03"
    for case in "${WHOLE_CASES[@]}"; do
        printf '%-46s %9s %9s\n' "more blocks than stock, $(name_of_whole "$case")" "$(more_blocks "$case")" "0"
    done
    say "(with a body, 1 idle peer, the whole request: stock ${REQUEST[stock 1 hot]}, ours ${REQUEST[ours 1 hot]})"
}

# Ours with the most idle peers.
highest_small() {
    local pattern
    for pattern in "${WHOLE_PATTERNS[@]}"; do say "${SMALL[ours $LARGEST $pattern]}"; done | sort -g | tail -n 1
}

# more_blocks CASE: of nginx's memory pools, per request, in ours.
more_blocks() {
    awk '{n = split($0, a, "|"); split(a[1], s, " "); split(a[2], o, " "); printf "%.2f\n", o[1] + o[2] - s[1] - s[2]}' \
        <<<"${ALLOCATED[stock $1]}|${ALLOCATED[ours $1]}"
}
