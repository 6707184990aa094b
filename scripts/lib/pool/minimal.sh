# Counts the instructions of a whole request that is as small as can be, and the blocks of memory that it takes. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Requests before and while it is counted, all below the 1,000 after which nginx closes a connection.
FIRST=100 FEWER=100 MORE=600

# The least that HTTP/1.1 asks for; the same to a server that announces how long it keeps the connection; and what a browser sends.
declare -gA WHOLE_REQUESTS=(
    [minimal]=$'GET /204 HTTP/1.1\r\nHost: a\r\n\r\n'
    [announced]=$'GET /announces HTTP/1.1\r\nHost: a\r\n\r\n'
    [browser]=$'GET /204 HTTP/1.1\r\nHost: www.example.com\r\n'
)
WHOLE_REQUESTS[browser]+=$'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n'
WHOLE_REQUESTS[browser]+=$'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n'
WHOLE_REQUESTS[browser]+=$'Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n'
WHOLE_REQUESTS[browser]+=$'Referer: https://www.example.com/\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n'
WHOLE_REQUESTS[browser]+=$'Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\r\n'

# "REQUEST UPSTREAM"
WHOLE_CASES=("minimal one" "minimal three" "minimal hash" "minimal zone" "announced one" "browser one")

ALLOCATIONS=(ngx_palloc_block ngx_palloc_large malloc posix_memalign)

# Sets WHOLE, the instructions of a request, and ALLOCATED, calls of ALLOCATIONS per request, at "KIND CASE".
measure_whole_requests() {
    local kind case folder port request
    declare -gA WHOLE ALLOCATED
    start_app bench-app
    for kind in stock ours; do
        step "counting: whole requests, $kind"
        for case in "${WHOLE_CASES[@]}"; do
            request=${case% *} folder=$TEMP/minimal port=$(free_port)
            write_minimal_configuration "$kind" "${case#* }" "$folder" "$port"
            start_callgrind "$folder" "$port"
            send_same "$request" "$FIRST" "$port"
            control_callgrind --instr=on
            send_same "$request" "$FEWER" "$port"
            control_callgrind --dump=few
            send_same "$request" "$MORE" "$port"
            control_callgrind --dump=more
            stop_callgrind
            read_whole_request "$folder" "$kind $case"
        done
    done
}

# write_minimal_configuration KIND UPSTREAM FOLDER PORT
write_minimal_configuration() {
    local load='' server="server 127.0.0.1:$APP_PORT;" upstream
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;"
    case $2 in
        one) upstream=$server ;;
        three) upstream="$server $server $server" ;;
        hash) upstream="hash \$uri; $server $server $server" ;;
        zone) upstream="zone app 128k; $server $server $server" ;;
    esac
    rm -rf "$3"
    mkdir -p "$3"
    fill_in "$ROOT/nginx-conf/bench-minimal.conf" LOAD_MODULE "$load" FOLDER "$3" PORT "$4" UPSTREAM "$upstream" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$3")" >"$3/nginx.conf"
}

# send_same REQUEST NUMBER PORT
send_same() {
    printf '%s' "${WHOLE_REQUESTS[$1]}" | perl "$LIB/pool/same.pl" "$3" "$2" || die "requests failed: $1"
}

# read_whole_request FOLDER "KIND CASE": the difference between two numbers of requests, so that the client's coming and going
# cancels out.
read_whole_request() {
    local few more
    few=$(dump_of "$1" few) more=$(dump_of "$1" more)
    WHOLE[$2]=$((($(instructions_in "$more") - $(instructions_in "$few")) / (MORE - FEWER)))
    ALLOCATED[$2]=$(paste <(calls_in "$few" "${ALLOCATIONS[@]}") <(calls_in "$more" "${ALLOCATIONS[@]}") |
        awk -v n="$((MORE - FEWER))" '{printf "%.2f\n", ($2 - $1) / n}' | xargs)
    (($(calls_in "$more" connect) == 0)) || die "connections were opened: $2"
}

print_whole_requests() {
    local case kind request calls
    say
    printf '%-46s %9s %9s %9s\n' "instructions per request" stock ours "to stock"
    for case in "${WHOLE_CASES[@]}"; do
        printf '%-46s %9d %9d %9s\n' "$(name_of_whole "$case")" "${WHOLE[stock $case]}" "${WHOLE[ours $case]}" \
            "$(quotient "${WHOLE[ours $case]}" "${WHOLE[stock $case]}")"
    done
    say "(GET, 204, keepalive 16; the minimal request has ${#WHOLE_REQUESTS[minimal]} bytes, a browser's ${#WHOLE_REQUESTS[browser]}; announced: with Keep-Alive)"
    say
    printf '%-34s %17s %17s %17s %17s\n' "calls per request" "${ALLOCATIONS[@]}"
    for case in "${WHOLE_CASES[@]}"; do
        for kind in stock ours; do
            read -ra calls <<<"${ALLOCATED[$kind $case]}"
            printf '%-34s %17s %17s %17s %17s\n' "$(name_of_whole "$case"), $kind" "${calls[@]}"
        done
    done
}

name_of_whole() {
    local -A upstreams=([one]="one server" [three]="three servers" [hash]="three, hash" [zone]="three, zone")
    say "${1% *}, ${upstreams[${1#* }]}"
}
