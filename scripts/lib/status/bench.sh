# `scripts/bench status`: what counting costs a request, and how long the status endpoint takes. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FEW=500 MANY=2500 TIMES=1 ANSWERS=20 UPSTREAMS=1000 SERVERS=10

bench_status() {
    begin_bench note_status_needs "FEW=200 MANY=600 ANSWERS=5" "$@"

    print_counting_machine
    say "counted    $((MANY - FEW)) requests each, after warming up; one client, one request after the other"
    start_app bench-app
    head -c 100 /dev/zero >"$TEMP/body"
    stop_callgrind_at_exit
    compare_with_before
    measure_answers
}

note_status_needs() {
    note_counting_needs
    need "git" git have git
    need "curl" curl have curl
}

# ---- instructions ----

# The last commit that did not count is built beside this one.
compare_with_before() {
    local before method
    before=$(cd "$ROOT" && git log --diff-filter=A --format=%h -- src/metrics/mod.rs 2>/dev/null | tail -n 1)
    if [[ -z $before ]]; then
        say "(no git history here: what was before cannot be built)"
        return
    fi
    step "building the module as it was before $before"
    mkdir -p "$TEMP/before"
    git -C "$ROOT" archive "$before^" | tar -x -C "$TEMP/before"
    (
        ROOT=$TEMP/before
        CARGO_PROFILE_RELEASE_STRIP=none quietly "$TEMP/before.log" build_module "$VERSION-symbols"
    ) || die "the module as it was does not build"
    declare -gA COUNT MORE
    local now=$OUR_MODULE which
    for which in without with; do
        ALLOCATOR=$which
        OUR_MODULE=$now
        count_stale ours /on
        for method in "${METHODS[@]}"; do MORE[now $which $method]=${COUNT[ours /on $method]}; done
        OUR_MODULE=$(ROOT=$TEMP/before built_module "$VERSION-symbols")
        count_stale ours /on
        for method in "${METHODS[@]}"; do MORE[before $which $method]=${COUNT[ours /on $method]}; done
    done
    OUR_MODULE=$now
    say
    printf '%-34s %9s %9s %9s %9s\n' "instructions per request" before now more aim
    for which in without with; do
        for method in "${METHODS[@]}"; do
            printf '%-34s %9d %9d %9d %9s\n' "$method, $which malloc and free" "${MORE[before $which $method]}" \
                "${MORE[now $which $method]}" $((MORE[now $which $method] - MORE[before $which $method])) "<= 150"
        done
    done
    say "(what malloc and free do for the same calls depends on what lies in memory beside)"
}

# Whether the C library's allocator is counted too.
ALLOCATOR=with

# Like the one in requests.sh, without the waits.
read_totals() {
    awk -v skips=$([[ $ALLOCATOR == with ]] || echo 1) '
        /^fn=/ {
            id = $1
            sub(/^fn=/, "", id)
            if (NF > 1) name[id] = $2
            skipped = skips && name[id] ~ /^(malloc|free|calloc|realloc|posix_memalign|_mid_memalign.*|_int_.*|unlink_chunk.*|malloc_consolidate|sysmalloc.*|systrim.*)$/
        }
        /^cfn=/ {
            id = $1
            sub(/^cfn=/, "", id)
            if (NF > 1) name[id] = $2
        }
        /^calls=/ {callee = 1; next}
        /^[+*0-9-]/ {
            if (callee) callee = 0
            else if (!skipped) total += $2
        }
        END {if (total) printf "%.0f 0\n", total}' "$1"
}

# ---- time ----

# Of an nginx with many upstreams; and how long small requests to the same worker take meanwhile.
measure_answers() {
    local folder=$TEMP/status port format i alone beside
    port=$(free_port)
    write_status_configuration "$folder" "$port"
    start_nginx "$folder"
    say
    printf '%-34s %9s %9s %9s\n' "ms for $UPSTREAMS upstreams x $SERVERS servers" min median max
    for format in json prometheus; do
        for ((i = 0; i < ANSWERS; i++)); do
            curl -s -o /dev/null -w '%{time_total}\n' "http://127.0.0.1:$port/status?format=$format"
        done | awk '{print $1 * 1000}' | spread "$format, $(answer_size "$port" "$format") bytes" '%9.1f'
    done
    alone=$(slowest "$port")
    (while :; do curl -s -o /dev/null "http://127.0.0.1:$port/status?format=prometheus"; done) &
    local load=$!
    beside=$(slowest "$port")
    kill "$load" && wait "$load" 2>/dev/null || true
    say
    printf '%-34s %9s %9s\n' "ms, small requests meanwhile" median slowest
    printf '%-34s %9s %9s\n' "none is asked for" $alone
    printf '%-34s %9s %9s\n' "one answer after the other" $beside
    say "(one worker; curl and nginx share the processors of this machine)"
}

answer_size() { curl -s -o /dev/null -w '%{size_download}' "http://127.0.0.1:$1/status?format=$2"; }

# slowest PORT: median and slowest time of small requests, one after the other over one connection.
slowest() {
    local i urls=()
    for ((i = 0; i < 500; i++)); do urls+=(-o /dev/null "http://127.0.0.1:$1/small"); done
    curl -s -w '%{time_total}\n' "${urls[@]}" | awk '{print $1 * 1000}' | sort -g |
        awk '{v[NR] = $1} END {printf "%.2f %.2f\n", v[int((NR + 1) / 2)], v[NR]}'
}

# write_status_configuration FOLDER PORT
write_status_configuration() {
    local i j
    mkdir -p "$1"
    {
        say "load_module $OUR_MODULE;"
        say "worker_processes 1; pid $1/nginx.pid; error_log $1/error.log error;"
        say "events { worker_connections 1024; }"
        say "http { access_log off; $(temp_paths "$NGINX" "$1")"
        for ((i = 0; i < UPSTREAMS; i++)); do
            say "upstream service-$i.example.com { keepalive 16;"
            for ((j = 0; j < SERVERS; j++)); do say "server 10.$((i / 250)).$((i % 250)).$j:8080;"; done
            say "}"
        done
        say "server { listen 127.0.0.1:$2; keepalive_requests 1000000;"
        say "location = /status { keepalive_status; } location = /small { return 204; } } }"
    } >"$1/nginx.conf"
}
