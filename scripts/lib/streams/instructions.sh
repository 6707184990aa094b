# Instructions per request, by valgrind's callgrind. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Sets COUNT at "KIND URI CLIENTS", the instructions for a request.
measure_streams_instructions() {
    local kind uri clients
    declare -gA COUNT
    stop_callgrind_at_exit
    for kind in "${KINDS[@]}"; do
        step "counting instructions: $kind"
        FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
        write_streams_configuration "$kind" "$FOLDER" "$COUNTED_PORT" ''
        if [[ $kind == haproxy ]]; then
            start_program_under_callgrind "$FOLDER" "$COUNTED_PORT" haproxy -db -f "$FOLDER/haproxy.cfg"
        else
            start_callgrind "$FOLDER" "$COUNTED_PORT"
        fi
        control_callgrind --instr=on
        for uri in $(uris_of "$kind"); do
            for clients in "$MOST" 1; do
                count_requests "$uri" "$clients" 0
                COUNT[$kind $uri $clients]=$PER_REQUEST
            done
        done
        stop_callgrind
    done
}

print_streams_instructions() {
    local kind uri
    say
    printf '%-34s %12s %9s %12s %9s\n' "instructions per request" "$MOST clients" "to stock" "one client" "to stock"
    for uri in "${URIS[@]}"; do
        for kind in "${KINDS[@]}"; do
            [[ -n ${COUNT[$kind $uri 1]:-} ]] || continue
            printf '%-34s %12d %9s %12d %9s\n' "$(path_of "$uri"), $kind" \
                "${COUNT[$kind $uri $MOST]}" "$(instructions_ratio "$kind" "$uri" "$MOST")" \
                "${COUNT[$kind $uri 1]}" "$(instructions_ratio "$kind" "$uri" 1)"
        done
    done
    say "(of the proxy alone, without the kernel)"
}

path_of() { if [[ $1 == / ]]; then say "HTTP/1.1 to streams"; else say "frames (grpc_pass)"; fi; }

# instructions_ratio KIND URI CLIENTS
instructions_ratio() { quotient "${COUNT[$1 $2 $3]}" "${COUNT[stock $2 $3]}"; }

print_streams_aims() {
    local case
    say
    printf '%-60s %8s %8s\n' "ours / stock" measured aim
    for case in "$MOST apart" "$MOST shared"; do
        aim_row "processor time of the proxy, $(name_of_case "$case")" "$(streams_ratios cpu ours "$case" | median)" "<= 0.85"
        aim_row "requests/s, $(name_of_case "$case")" "$(streams_ratios speed ours "$case" | median)" ">= 1.10"
    done
    aim_row "instructions, $MOST clients" "$(instructions_ratio ours / "$MOST")" "<= 1.25"
    aim_row "instructions, frames, $MOST clients" "$(instructions_ratio ours /frames "$MOST")" "<= 1.10"
    aim_row "time of a request, one client" "$(streams_ratios speed ours "1 apart" | awk '{print 1 / $1}' | median)" "<= 1.15"
}

aim_row() { printf '%-60s %8.3f %8s\n' "$@"; }
