# `scripts/bench auth`: what a request costs that is authorised by a subrequest. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FEW=500 MANY=2500 TIMES=1
AUTHORISED=("stock, auth_request" "ours, auth_request" "ours, auth_subrequest")
ANSWERS=(204 200)

bench_auth() {
    begin_bench note_counting_needs "FEW=200 MANY=600" "$@"

    print_counting_machine
    say "counted    $((MANY - FEW)) requests each, after warming up; one client, one request after the other"
    say
    start_app bench-auth-app
    measure_authorised
    print_authorised
}

# Sets COUNT and CONNECTIONS at "NAME ANSWER": the instructions for a request, and the connections to the authorisation
# server for 1,000 of them.
measure_authorised() {
    local name answer before
    declare -gA COUNT CONNECTIONS
    stop_callgrind_at_exit
    for name in "${AUTHORISED[@]}"; do
        step "counting: $name"
        FOLDER=$TEMP/callgrind COUNTED_PORT=$(free_port)
        write_auth_configuration "$FOLDER" "${name%%,*}" "${name#*, }"
        start_callgrind "$FOLDER" "$COUNTED_PORT"
        control_callgrind --instr=on
        for answer in "${ANSWERS[@]}"; do
            count_requests "/$answer" 1 0
            COUNT[$name $answer]=$PER_REQUEST
            before=$(accepted)
            send_requests 1000 "/$answer" 1
            # The one that asks is one of them.
            CONNECTIONS[$name $answer]=$(($(accepted) - before - 1))
        done
        stop_callgrind
    done
}

# write_auth_configuration FOLDER KIND DIRECTIVE
write_auth_configuration() {
    local load=''
    [[ $2 == stock ]] || load="load_module $OUR_MODULE;"
    rm -rf "$1"
    mkdir -p "$1"
    fill_in "$ROOT/nginx-conf/bench-auth.conf" LOAD_MODULE "$load" FOLDER "$1" TEMP_PATHS "$(temp_paths "$NGINX" "$1")" \
        PORT "$COUNTED_PORT" APP_PORT "$APP_PORT" AUTHORISE "$3" >"$1/nginx.conf"
}

# How many connections the authorisation server has accepted so far.
accepted() { http_get "$APP_PORT" /status | awk 'NR == 3 {print $1}'; }

print_authorised() {
    local name
    say
    authorised_row "instructions per authorised request" 204 '200 "OK"'
    for name in "${AUTHORISED[@]}"; do
        authorised_row "$name" "${COUNT[$name 204]}" "${COUNT[$name 200]}"
    done
    authorised_ratio "ours / stock, auth_request" "ours, auth_request"
    authorised_ratio "ours, auth_subrequest / stock, auth_request" "ours, auth_subrequest" "<= 1.05 (204)"
    say
    authorised_row "connections for 1,000 requests" 204 '200 "OK"'
    for name in "${AUTHORISED[@]}"; do
        authorised_row "$name" "${CONNECTIONS[$name 204]}" "${CONNECTIONS[$name 200]}"
    done
    say "(what a connection costs the kernel and the server is not among the instructions)"
}

authorised_row() { printf '%-50s %9s %9s  %s\n' "$1" "$2" "$3" "${4:-}"; }

authorised_ratio() {
    authorised_row "$1" "$(quotient "${COUNT[$2 204]}" "${COUNT[stock, auth_request 204]}")" \
        "$(quotient "${COUNT[$2 200]}" "${COUNT[stock, auth_request 200]}")" "${3:-}"
}
