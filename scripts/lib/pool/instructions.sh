# Counts the instructions of `get` and `free` under valgrind's callgrind. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

PATTERNS=(hot cyclic random miss)

# Sets GET, FREE and REQUEST, instructions per call or request, at "KIND SIZE PATTERN".
measure_hooks() {
    local kind size
    declare -gA GET FREE REQUEST
    stop_callgrind_at_exit
    for size in "${SIZES[@]}"; do
        for kind in stock ours; do
            step "counting: $size idle peers, $kind"
            count_patterns "$kind" "$size"
        done
    done
}

# The pool is filled while callgrind does not count; then each pattern is counted by itself.
count_patterns() {
    local folder=$TEMP/callgrind-$1-$2 port pattern at
    port=$(free_port)
    write_pool_configuration "$1" "$2" "$folder" "$port"
    start_callgrind "$folder" "$port"
    send_pattern fill "$2" "$folder" "$port"
    control_callgrind --instr=on
    for pattern in "${PATTERNS[@]}"; do
        send_pattern "$pattern" "$2" "$folder" "$port"
        control_callgrind --dump="$pattern"
        at="$1 $2 $pattern"
        read -r "GET[$at]" "FREE[$at]" "REQUEST[$at]" < <(read_counts "$folder" "$pattern")
        [[ -n ${REQUEST[$at]:-} ]] || die "callgrind did not count: $at"
    done

    stop_callgrind
}

# read_counts FOLDER PATTERN: what the calls of the hooks cost, without what their calls of the balancer's cost. In
# callgrind's tree a function's own line has a `*`, and a line with `>` follows for each function that it calls.
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
            $2 == ">" && inside && /_(get|free)_(hash|round_robin)_peer \(/ {count[inside] -= $1}
            END {if (count["get"] && count["free"]) printf "%.0f %.0f %.0f\n", count["get"] / n, count["free"] / n, total / n}'
}
