# Instructions per request, of any nginx. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

COUNTED=(none stock ours)

# Sets INSTRUCTIONS at KIND: the difference between two numbers of requests, so that start and end cancel out.
measure_instructions() {
    local kind few
    declare -gA INSTRUCTIONS
    VALGRIND_PID=
    at_exit 'stop_pid "$VALGRIND_PID"'
    for kind in "${COUNTED[@]}"; do
        count_instructions "$kind" "$FEW"
        few=$COUNT
        count_instructions "$kind" "$MANY"
        INSTRUCTIONS[$kind]=$(((COUNT - few) / (MANY - FEW)))
        step "instructions per request, $kind: ${INSTRUCTIONS[$kind]}"
    done
}

# count_instructions KIND REQUESTS: sets COUNT, of a whole life of nginx as one process. One client, one request after the other:
# then every run takes the same path through the event loop.
count_instructions() {
    local folder=$TEMP/callgrind-$1 port
    port=$(free_port)
    rm -rf "$folder"
    write_configuration "$1" "$folder" "$port" 32
    valgrind --tool=callgrind --trace-children=yes --callgrind-out-file="$folder/callgrind.out" \
        "$NGINX" -p "$folder" -e "$folder/error.log" -c "$folder/nginx.conf" -g 'daemon off; master_process off;' \
        >"$folder/valgrind.log" 2>&1 </dev/null &
    VALGRIND_PID=$!
    wait_for 30 http_get "$port" / >/dev/null 2>&1 || die "nginx does not start under valgrind: $(cat "$folder/valgrind.log")"
    h2load --h1 -n "$2" -c 1 "http://127.0.0.1:$port/" >"$folder/h2load.out" 2>&1 </dev/null
    grep -q "^status codes: $2 2xx" "$folder/h2load.out" || die "requests failed: $(cat "$folder/h2load.out")"
    kill -QUIT "$VALGRIND_PID"
    wait "$VALGRIND_PID" || true
    VALGRIND_PID=
    COUNT=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$folder/valgrind.log")
    [[ -n $COUNT ]] || die "valgrind did not count: $(tail -n 5 "$folder/valgrind.log")"
}

print_instructions() {
    local kind
    say
    printf '%-46s %8s %8s\n' "instructions per request, 16 bytes, keepalive 32" "" "to stock"
    for kind in "${COUNTED[@]}"; do
        printf '%-46s %8d %8.3f\n' "${KIND_NAMES[$kind]}" "${INSTRUCTIONS[$kind]}" "$(instructions_ratio "$kind")"
    done
}

instructions_ratio() { awk -v a="${INSTRUCTIONS[$1]}" -v b="${INSTRUCTIONS[stock]}" 'BEGIN {print a / b}'; }
