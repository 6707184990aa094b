# Requests per second, and the processor time that a request needs. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# The cases are "CLIENTS PLACE". `apart`: the clients share a processor with the server, as in scripts/bench; the proxy has its own, and
# begins with the first request or answer that comes. `shared`: they share the proxy's processor, so that it finds more at a time, as
# a proxy does that is always busy.
CASES=("$MOST apart" "$MOST shared" "1 apart")

# Leaves in TEMP/speed-KIND-CASE, TEMP/cpu-KIND-CASE (the proxy) and TEMP/server-KIND-CASE one number for each round. Each round begins with
# another kind, so that none always follows the same.
measure_streams_speed() {
    local case kind round i
    for kind in "${KINDS[@]}"; do
        CLIENTS=$MOST wrk_round "${PROXY_PORT[$kind]}" 1 >/dev/null
    done
    for ((round = 0; round < ROUNDS; round++)); do
        for case in "${CASES[@]}"; do
            for ((i = 0; i < ${#KINDS[@]}; i++)); do
                speed_round "${KINDS[(round + i) % ${#KINDS[@]}]}" "$case"
            done
        done
        step "round $((round + 1)) of $ROUNDS, requests/s: $(for kind in "${KINDS[@]}"; do
            printf '%s ' "$kind"
            for case in "${CASES[@]}"; do printf '%.0f ' "$(tail -n 1 "$TEMP/speed-$kind-$case")"; done
        done)"
    done
}

# speed_round KIND CASE
speed_round() {
    local clients=${2% *} at="$1-$2" proxy server out rate requests CLIENT_PROCESSOR=1
    [[ $2 != *shared ]] || CLIENT_PROCESSOR=0
    proxy=$(processor_time "${WORKER[$1]}") server=$(processor_time "$APP_WORKER")
    out=$(CLIENTS=$clients wrk_round "${PROXY_PORT[$1]}" "$SECONDS_EACH")
    read -r rate requests <<<"$out"
    say "$rate" >>"$TEMP/speed-$at"
    per_request $(($(processor_time "${WORKER[$1]}") - proxy)) "$requests" >>"$TEMP/cpu-$at"
    per_request $(($(processor_time "$APP_WORKER") - server)) "$requests" >>"$TEMP/server-$at"
}

print_streams_speed() {
    local case kind
    for case in "${CASES[@]}"; do
        say
        printf '%-46s %8s %8s %8s\n' "$(name_of_case "$case")" min median max
        for kind in "${KINDS[@]}"; do
            case_spread "requests/s, $kind" '%8.0f' <"$TEMP/speed-$kind-$case"
        done
        for kind in "${KINDS[@]}"; do
            case_spread "processor time of the proxy, us, $kind" '%8.2f' <"$TEMP/cpu-$kind-$case"
        done
        for kind in "${KINDS[@]}"; do
            case_spread "processor time of the server, us, $kind" '%8.2f' <"$TEMP/server-$kind-$case"
        done
        for kind in "${KINDS[@]:1}"; do
            streams_ratios speed "$kind" "$case" | case_spread "requests/s, $kind / stock" '%8.3f'
            streams_ratios cpu "$kind" "$case" | case_spread "processor time of the proxy, $kind / stock" '%8.3f'
        done
    done
    say "(processor time: for a request, with the kernel's part)"
}

name_of_case() {
    case $1 in
        "1 apart") say "one client" ;;
        *apart) say "$MOST clients beside the server" ;;
        *) say "$MOST clients beside the proxy" ;;
    esac
}

case_spread() {
    local numbers
    numbers=$(sort -g)
    # shellcheck disable=SC2059 # The format is one of ours.
    printf "%-46s $2 $2 $2\n" "$1" "$(head -n 1 <<<"$numbers")" "$(median <<<"$numbers")" "$(tail -n 1 <<<"$numbers")"
}

# streams_ratios WHAT KIND CASE: to stock, of each round.
streams_ratios() { paste "$TEMP/$1-$2-$3" "$TEMP/$1-stock-$3" | awk '{print $1 / $2}'; }
