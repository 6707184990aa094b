# Requests per second, and the processor time of a request, in rounds that alternate. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# "CLIENTS ANSWER": 204, or a small one with a body.
CASES=("1 204" "100 204" "1000 204" "100 small")
declare -gA PATHS=([204]=/204 [small]=/)
# Stock and ours are neighbours. The pool has room for the connections of all clients.
KINDS=(haproxy stock ours) ROOM=1024
# Without a pool it is always the same: once is enough.
WITHOUT_POOL="100 small"

declare -gA KIND_NAMES=([stock]=stock [ours]=ours [haproxy]=HAProxy [none]="no pool")

leave_out_haproxy() {
    say "skipped: HAProxy, as it is not installed"
    KINDS=(stock ours)
}

# A proxy has two connections for each client, and a few files.
leave_out_clients() {
    local case fitting=()
    ulimit -Sn "$(ulimit -Hn)"
    for case in "${CASES[@]}"; do
        if (($(ulimit -n) >= 2 * ${case% *} + 100)); then
            fitting+=("$case")
        else
            say "skipped: ${case% *} clients, as a process may have no more than $(ulimit -n) open files (ulimit -n)"
        fi
    done
    CASES=("${fitting[@]}")
}

# kinds_of CASE: in the order of the even rounds.
kinds_of() {
    [[ $1 != "$WITHOUT_POOL" ]] || say none
    printf '%s\n' "${KINDS[@]}"
}

# A proxy for each kind and case, so that a pool holds no more than the case's clients need. All of them run the whole time;
# the idle ones cost nothing. Sets PROXY_PORT and WORKER at "KIND CASE".
start_speed_proxies() {
    local kind case folder at
    declare -gA PROXY_PORT WORKER
    for case in "${CASES[@]}"; do
        for kind in $(kinds_of "$case"); do
            at="$kind $case" folder=$TEMP/${kind}-${case/ /-}
            PROXY_PORT[$at]=$(free_port)
            start_speed_proxy "$kind" "$folder" "${PROXY_PORT[$at]}"
            WORKER[$at]=$PROXY
            wait_for 5 http_get "${PROXY_PORT[$at]}" / >/dev/null 2>&1 || die "$kind does not answer"
        done
    done
}

# start_speed_proxy KIND FOLDER PORT: sets PROXY, the process that serves.
start_speed_proxy() {
    if [[ $1 == haproxy ]]; then
        mkdir -p "$2"
        fill_in "$ROOT/nginx-conf/bench-haproxy.cfg" PORT "$3" APP_PORT "$APP_PORT" >"$2/haproxy.cfg"
        start_haproxy "$2"
        PROXY=$PID
    else
        write_configuration "$1" "$2" "$3" "$ROOM"
        start_nginx "$2"
        PROXY=$(pgrep -P "$PID")
    fi
}

# Leaves in TEMP/rate-KIND-CASE (requests per second) and TEMP/time-KIND-CASE (microseconds) one number for each round. The order
# is turned round each time, so that none always follows the same one.
measure_speed() {
    local round case kind kinds
    warm_up
    for ((round = 1; round <= ROUNDS; round++)); do
        for case in "${CASES[@]}"; do
            mapfile -t kinds < <(if ((round % 2)); then kinds_of "$case"; else kinds_of "$case" | tac; fi)
            for kind in "${kinds[@]}"; do
                speed_round "$kind" "$case"
            done
        done
        step "round $round of $ROUNDS, requests/s, ours / stock: $(for case in "${CASES[@]}"; do
            printf '%.3f  ' "$(speed_ratios rate ours "$case" | tail -n 1)"
        done)"
    done
}

# All at once: it is only about the connections to the server.
warm_up() {
    local at case warming=() pid
    for at in "${!PROXY_PORT[@]}"; do
        case=${at#* }
        CLIENTS=${case% *} wrk_round "${PROXY_PORT[$at]}" 1 "${PATHS[${case#* }]}" >/dev/null &
        warming+=($!)
    done
    for pid in "${warming[@]}"; do wait "$pid"; done
}

# speed_round KIND CASE
speed_round() {
    local worker=${WORKER[$1 $2]} before out rate requests
    before=$(time_at_rest "$worker")
    out=$(CLIENTS=${2% *} wrk_round "${PROXY_PORT[$1 $2]}" "$SECONDS_EACH" "${PATHS[${2#* }]}")
    read -r rate requests <<<"$out"
    say "$rate" >>"$TEMP/rate-$1-$2"
    per_request $(($(time_at_rest "$worker") - before)) "$requests" >>"$TEMP/time-$1-$2"
}

# The processor time of a proxy when it has done what was left to do for clients that are gone.
time_at_rest() {
    local time last='' i
    time=$(processor_time "$1")
    for ((i = 0; i < 20 && ${last:--1} != time; i++)); do
        sleep 0.02
        last=$time time=$(processor_time "$1")
    done
    say "$time"
}

# speed_ratios WHAT KIND CASE [BASE]: to stock, of each round.
speed_ratios() { paste "$TEMP/$1-$2-$3" "$TEMP/$1-${4:-stock}-$3" | awk '{print $1 / $2}'; }

# ---- tables ----

print_speed() {
    local kinds=(stock ours) kind
    [[ ${KINDS[0]} != haproxy ]] || kinds+=(haproxy)
    say
    speed_head "requests/s, median" "${kinds[@]}" none
    speed_rows rate '%12.0f' "${kinds[@]}" none
    say
    speed_head "processor time of a request, us, median" "${kinds[@]}" none
    speed_rows time '%12.2f' "${kinds[@]}" none
    say "(of the proxy, with the kernel's part)"
    for kind in "${kinds[@]:1}"; do
        print_speed_ratios rate "requests/s" "$kind" stock
        print_speed_ratios time "processor time of a request" "$kind" stock
    done
    for kind in "${kinds[@]:0:2}"; do
        print_speed_ratios rate "requests/s" "$kind" none
    done
}

# speed_head TITLE KIND..
speed_head() {
    local kind
    printf '%-46s' "$1"
    for kind in "${@:2}"; do printf ' %12s' "${KIND_NAMES[$kind]}"; done
    say
}

# speed_rows WHAT FORMAT KIND..
speed_rows() {
    local case kind
    for case in "${CASES[@]}"; do
        printf '%-46s' "$(name_of_case "$case")"
        for kind in "${@:3}"; do
            # shellcheck disable=SC2059 # The format is one of ours.
            [[ ! -s $TEMP/$1-$kind-$case ]] || printf " $2" "$(median <"$TEMP/$1-$kind-$case")"
        done
        say
    done
}

# print_speed_ratios WHAT TITLE KIND BASE: of the same round.
print_speed_ratios() {
    local case ratios
    say
    printf '%-46s %8s %8s %8s\n' "$2, ${KIND_NAMES[$3]} / ${KIND_NAMES[$4]}" min median max
    for case in "${CASES[@]}"; do
        [[ -s $TEMP/$1-$4-$case ]] || continue
        ratios=$(speed_ratios "$1" "$3" "$case" "$4" | sort -g)
        printf '%-46s %8.3f %8.3f %8.3f\n' "$(name_of_case "$case")" "$(head -n 1 <<<"$ratios")" "$(median <<<"$ratios")" \
            "$(tail -n 1 <<<"$ratios")"
    done
}

name_of_case() {
    local clients="${1% *} clients" answer=204
    [[ $1 != "1 "* ]] || clients="1 client"
    [[ $1 == *204 ]] || answer="16 bytes"
    say "$clients, $answer"
}
