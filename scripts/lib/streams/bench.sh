# `scripts/bench streams`: many requests over one HTTP/2 connection, beside the stock pool and HAProxy. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FEW=500 MANY=2500 TIMES=3 ROUNDS=12 SECONDS_EACH=2 TRACED=5000
MOST=100
KINDS=(stock ours haproxy)
# Requests through nginx's HTTP/1.1, and through its HTTP/2.
URIS=(/ /frames)

bench_streams() {
    if [[ ${1:-} == link ]]; then
        use soak/servers streams/link streams/beside
        bench_streams_link "${@:2}"
        return
    fi
    begin_bench note_streams_needs "FEW=200 MANY=600 TIMES=1 ROUNDS=4 SECONDS_EACH=1 TRACED=1000" "$@"
    have haproxy || leave_out_haproxy

    print_counting_machine
    ! have haproxy || say "HAProxy    $(haproxy_version), HTTP/2 to the server, one thread"
    say "measured   $MOST clients and one, one worker, over one carrier; rounds that alternate"
    say
    start_app bench-streams-app
    APP_WORKER=$(pgrep -P "$PID")
    start_proxies
    measure_streams_speed
    measure_streams_calls
    measure_streams_instructions
    print_streams_speed
    print_streams_calls
    print_streams_instructions
    print_streams_aims
}

note_streams_needs() {
    note_counting_needs
    need "wrk" wrk have wrk
    need "taskset" util-linux have taskset
    note_haproxy_need
}

leave_out_haproxy() {
    say "skipped: HAProxy, as it is not installed"
    KINDS=(stock ours)
}

# write_streams_configuration KIND FOLDER PORT AFFINITY
write_streams_configuration() {
    local load='' http2=''
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;" http2="http2 on streams=$MOST connections=1;"
    rm -rf "$2"
    mkdir -p "$2"
    if [[ $1 == haproxy ]]; then
        fill_in "$ROOT/nginx-conf/bench-streams-haproxy.cfg" PORT "$3" APP_PORT "$APP_PORT" >"$2/haproxy.cfg"
    else
        fill_in "$ROOT/nginx-conf/bench-streams.conf" LOAD_MODULE "$load" FOLDER "$2" AFFINITY "$4" APP_PORT "$APP_PORT" \
            TEMP_PATHS "$(temp_paths "$NGINX" "$2")" PORT "$3" HTTP2 "$http2" >"$2/nginx.conf"
    fi
}

# All of them run the whole time; the idle ones cost nothing. Sets PROXY_PORT and WORKER of each kind.
start_proxies() {
    local kind folder
    declare -gA PROXY_PORT WORKER
    for kind in "${KINDS[@]}"; do
        folder=$TEMP/$kind PROXY_PORT[$kind]=$(free_port)
        write_streams_configuration "$kind" "$folder" "${PROXY_PORT[$kind]}" "$(affinity 01)"
        if [[ $kind == haproxy ]]; then
            start_haproxy "$folder"
            WORKER[$kind]=$PID
        else
            start_nginx "$folder"
            WORKER[$kind]=$(pgrep -P "$PID")
        fi
        wait_for 5 http_get "${PROXY_PORT[$kind]}" / >/dev/null 2>&1 || die "$kind does not answer"
    done
}

# The uris that a kind serves in a way of its own.
uris_of() {
    if [[ $1 == haproxy ]]; then
        say /
    else
        printf '%s\n' "${URIS[@]}"
    fi
}
