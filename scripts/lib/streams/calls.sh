# System calls per request, by strace. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Sets CALLS at "KIND CLIENTS": all calls of the proxy for a request, and those on connections to the server. A proxy that is
# traced is slower, so that more requests come together: at full speed it is a few more calls.
measure_streams_calls() {
    local kind clients
    declare -gA CALLS
    if ! can_trace; then
        say "skipped: system calls, as there is no strace, or it may not trace"
        return
    fi
    for kind in "${KINDS[@]}"; do
        step "counting system calls: $kind"
        for clients in "$MOST" 10 1; do
            CALLS[$kind $clients]=$(trace_calls "$kind" "$clients")
        done
    done
}

can_trace() { have strace && strace -o /dev/null -yy -e trace=none true 2>/dev/null; }

# trace_calls KIND CLIENTS: "ALL UPSTREAM".
trace_calls() {
    local out=$TEMP/trace tracer
    strace -f -yy -s 0 -o "$out" -p "${WORKER[$1]}" 2>"$out.log" &
    tracer=$!
    wait_for 10 grep -q attached "$out.log" || die "strace does not begin: $(cat "$out.log")"
    h2load --h1 -n "$TRACED" -c "$2" "http://127.0.0.1:${PROXY_PORT[$1]}/" >"$out.h2load" 2>&1 </dev/null
    grep -q "^status codes: $TRACED 2xx" "$out.h2load" || die "requests failed: $(cat "$out.h2load")"
    stop_pid "$tracer"
    wait "$tracer" || true
    awk -v to="->127.0.0.1:$APP_PORT]" -v n="$TRACED" '
        / resumed>/ || !/\(/ {next}
        {all++}
        index($0, to) {upstream++}
        END {printf "%.2f %.2f\n", all / n, upstream / n}' "$out"
}

print_streams_calls() {
    local kind clients calls row
    [[ -n ${CALLS[*]} ]] || return 0
    say
    printf '%-34s %19s %19s %19s\n' "system calls per request" "$MOST clients" "10 clients" "one client"
    printf '%-34s %9s %9s %9s %9s %9s %9s\n' "" all upstream all upstream all upstream
    for kind in "${KINDS[@]}"; do
        row=()
        for clients in "$MOST" 10 1; do
            read -ra calls <<<"${CALLS[$kind $clients]}"
            row+=("${calls[@]}")
        done
        printf '%-34s %9s %9s %9s %9s %9s %9s\n' "$kind" "${row[@]}"
    done
    say "(upstream: on connections to the server; a proxy that is traced is slower, so that more requests come together)"
}
