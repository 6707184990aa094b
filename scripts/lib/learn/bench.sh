# `scripts/bench learn`: what happens, with real servers, to POSTs that are sent when the server is about to close the idle connection.
# Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

KINDS=(stock ours)
# Each kind has an address of its own, by which its connections to the servers are told apart.
declare -gA ADDRESS=([stock]=127.0.0.2 [ours]=127.0.0.3)
NGINX='' OUR_DIRECTIVES='' CHOSEN=() AT_ONCE=3
# POSTs of each kind, and how many clients share them; idle connections whose end is measured, and other requests per second meanwhile.
POSTS=400 CLIENTS=100 AGES=24 BUSY=50
# The lesson: clients, and requests of each after the first one.
LESSON_CLIENTS=10 LESSON=2
# Requests at half the limit, whose connections the server keeps: clients, and requests of each after the first one.
CALM_CLIENTS=10 CALM=4
# PHP-FPM closes after a number of requests, so these follow one another without a pause.
LESSON_PHP=552 POSTS_PHP=4000 PHP_CLIENTS=4

bench_learn() {
    read_learn_options "$@"
    make_temp
    fulfil_needs note_learn_needs
    NGINX=${NGINX:-$(find_nginx)} || die "no nginx is installed: name one with --nginx"
    "$ROOT/scripts/build" --nginx "$NGINX" --no-install
    OUR_MODULE=$(built_module "$(nginx_version "$NGINX")")
    provide_python_servers

    print_learn_machine
    at_exit stop_jobs
    start_servers
    start_learn_nginxes
    in_groups measure_ages
    in_groups teach
    in_groups send_posts
    in_groups send_calmly
    stop_servers
    print_learn
}

read_learn_options() {
    mapfile -t CHOSEN < <(server_names)
    while (($#)); do
        case $1 in
            --quick) CHOSEN=("${QUICK_SERVERS[@]}") ;;
            --servers) read -ra CHOSEN <<<"${2:?--servers needs names}" && shift ;;
            --ours) OUR_DIRECTIVES=${2?--ours needs directives} && shift ;;
            --nginx) NGINX=$(readlink -f "${2:?--nginx needs a binary}") && shift ;;
            -h | --help) show_help && exit ;;
            *) die "unknown option $1 (see scripts/bench --help)" ;;
        esac
        shift
    done
    local name
    for name in "${CHOSEN[@]}"; do
        server_names | grep -qxF -e "$name" || die "unknown server $name: choose from $(server_names | xargs)"
    done
}

note_learn_needs() {
    note_build_needs
    need "pgrep" procps have pgrep
    need "the kernel's table of connections" "" test -r /proc/net/tcp
    note_learn_server_needs
}

print_learn_machine() {
    say
    say "nginx      $(nginx_version "$NGINX") ($NGINX), one worker, keepalive 4 for each client"
    say "machine    $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
    say "ours       ${OUR_DIRECTIVES:-no more directives}"
    say
}

# ---- servers and nginx ----

# Leaves in CHOSEN those that are there.
start_servers() {
    local name started=()
    step "starting the servers"
    for name in "${CHOSEN[@]}"; do
        if ! "has_$name" >/dev/null 2>&1; then
            say "skipped: $(server_label "$name"), as it cannot be had here"
        elif start_server "$name"; then
            started+=("$name")
        else
            say "skipped: $(server_label "$name"), as it does not start: $(tail -n 3 "$TEMP/$name/out")"
        fi
    done
    CHOSEN=("${started[@]}")
    ((${#CHOSEN[@]})) || die "none of the servers can be had here"
}

# Some write their logs at the end only.
stop_servers() {
    local name
    for name in "${CHOSEN[@]}"; do
        stop_server "${SERVER_PID[$name]}"
    done
}

# Sets NGINX_PORT at each kind.
start_learn_nginxes() {
    local kind
    declare -gA NGINX_PORT
    for kind in "${KINDS[@]}"; do
        NGINX_PORT[$kind]=$(free_port)
        write_learn_configuration "$kind" "$TEMP/proxy-$kind" "${NGINX_PORT[$kind]}"
        start_nginx "$TEMP/proxy-$kind"
        wait_for 5 http_get "${NGINX_PORT[$kind]}" /ready >/dev/null 2>&1 || die "nginx with $kind does not answer"
    done
}

# write_learn_configuration KIND FOLDER PORT
write_learn_configuration() {
    local load='' pool='' more='' name
    [[ $1 == stock ]] || load="load_module $OUR_MODULE;" pool='$upstream_keepalive_status' more=$OUR_DIRECTIVES
    mkdir -p "$2"
    for name in "${CHOSEN[@]}"; do
        write_upstreams "$name" "$more" >>"$2/upstreams.conf"
        write_location "$name" >>"$2/locations.conf"
    done
    fill_in "$ROOT/nginx-conf/bench-learn.conf" LOAD_MODULE "$load" FOLDER "$2" TEMP_PATHS "$(temp_paths "$NGINX" "$2")" \
        POOL "$pool" BIND "${ADDRESS[$1]}" PORT "$3" PHP "$TEMP/php/index.php" PHP_IDS "$TEMP/php/ids" >"$2/nginx.conf"
}

# write_upstreams SERVER DIRECTIVES
write_upstreams() {
    local i
    for ((i = 0; i < CLIENTS; i++)); do
        say "upstream $1-$i { server 127.0.0.1:${SERVER_PORT[$1]}; keepalive 4; keepalive_requests 1000000000; $2 }"
    done
}

write_location() {
    if [[ $1 == php ]]; then
        say "location ~ ^/$1/(\\d+)/ { fastcgi_pass $1-\$1; }"
    else
        say "location ~ ^/$1/(\\d+)/ { proxy_pass http://$1-\$1/; }"
    fi
}

# ---- several servers at a time ----

JOBS=()

# start_job OUT COMMAND..
start_job() {
    local out=$1
    shift
    "$@" >"$out" 2>"$out.errors" </dev/null &
    JOBS+=("$!")
}

await_jobs() {
    local pid failed=no
    for pid in "${JOBS[@]}"; do
        wait "$pid" || failed=yes
    done
    JOBS=()
    [[ $failed == no ]] || die "a client failed: $(cat "$TEMP"/*/*.errors | sort -u | head -n 5)"
}

stop_jobs() {
    local pid
    for pid in "${JOBS[@]}"; do
        stop_pid "$pid"
    done
}

# in_groups FUNCTION: calls it for all servers, a few at a time, and waits for the jobs that it starts. A server waits most of the time.
in_groups() {
    local i name
    for ((i = 0; i < ${#CHOSEN[@]}; i += AT_ONCE)); do
        begin_group "$1"
        for name in "${CHOSEN[@]:i:AT_ONCE}"; do
            "$1" "$name"
        done
        await_jobs
        end_group "$1" "${CHOSEN[@]:i:AT_ONCE}"
    done
}

# Connections are counted for each phase alone.
begin_group() {
    [[ $1 == send_* ]] || return 0
    start_until_stopped connections perl "$LIB/learn/connections.pl" "${ADDRESS[@]}"
    COUNTER=$PID
}

# end_group FUNCTION SERVER..
end_group() {
    if [[ $1 == send_* ]]; then
        kill -TERM "$COUNTER"
        wait "$COUNTER" || true
        grep -vx ready "$TEMP/connections.out" >>"$TEMP/opened-$1" || true
    fi
    step "${PHASES[$1]}: ${*:2}"
}

# ---- the phases ----

declare -gA PHASES=(
    [measure_ages]="ages measured"
    [teach]="lesson given"
    [send_posts]="sent at the limit"
    [send_calmly]="sent at half the limit"
)

# At which ages the server closes, while it has other requests, too.
measure_ages() {
    local limit
    limit=$(server_limit "$1")
    ((limit)) || return 0
    start_job "$TEMP/$1/ages" perl "$LIB/learn/ages.pl" "${SERVER_PORT[$1]}" "$AGES" "$limit" "$BUSY"
}

# Requests that come after the server has closed, so that it closes each time.
teach() {
    local longest
    if [[ $1 == php ]]; then
        start_clients "$1" lesson clients="$PHP_CLIENTS" requests=$((LESSON_PHP / PHP_CLIENTS + 1))
    else
        longest=$(age_of "$1" max)
        start_clients "$1" lesson clients="$LESSON_CLIENTS" requests=$((LESSON + 1)) method=both \
            low=$((longest + 400)) high=$((longest + 600))
    fi
}

# POSTs that come when it is about to close.
send_posts() {
    local window
    if [[ $1 == php ]]; then
        start_clients "$1" posts clients="$PHP_CLIENTS" requests=$((POSTS_PHP / PHP_CLIENTS + 1))
    else
        read -ra window < <(choose_window "$1")
        start_clients "$1" posts clients="$CLIENTS" requests=$((POSTS / CLIENTS + 1)) "${window[@]}"
    fi
}

# Requests that come early enough, and ought to find their connection.
send_calmly() {
    local half
    half=$(($(server_limit "$1") / 2))
    ((half)) || return 0
    start_clients "$1" calm clients="$CALM_CLIENTS" requests=$((CALM + 1)) low=$((half - 50)) high=$((half + 50))
}

# start_clients SERVER PHASE OPTION..: of both kinds in one program, so that all of them aim at the same moment.
start_clients() {
    start_job "$TEMP/$1/$2" perl "$LIB/learn/clients.pl" server="$1" phase="$2" \
        kinds="stock:${NGINX_PORT[stock]},ours:${NGINX_PORT[ours]}" "${@:3}"
}

# age_of SERVER min|median|max, in ms.
age_of() {
    awk '$3 != "open" {print $1}' "$TEMP/$1/ages" | sort -g |
        awk -v which="$2" '{v[NR] = $1} END {printf "%.0f", v[which == "min" ? 1 : which == "max" ? NR : int((NR + 1) / 2)]}'
}

# choose_window SERVER: the options of the clients that make most of them meet the close. A server closes at an exact age, or once a second
# at the same time within that second, or neither.
choose_window() {
    awk -v limit="$(server_limit "$1")" -v port="${SERVER_PORT[$1]}" '
        $3 != "open" {age[++n] = $1; phase[n] = $2}
        function order(v, i, j, x) {
            for (i = 2; i <= n; i++) {
                x = v[i]
                for (j = i - 1; j && v[j] > x; j--) v[j + 1] = v[j]
                v[j + 1] = x
            }
        }
        END {
            order(age)
            order(phase)
            # Phases are on a circle: they begin after the largest gap.
            gap = phase[1] + 1000 - phase[n]
            tick = phase[1]
            for (i = 2; i <= n; i++) if (phase[i] - phase[i - 1] > gap) {
                gap = phase[i] - phase[i - 1]
                tick = phase[i]
            }
            if (age[n] - age[1] > 300 && gap > 900)
                printf "low=%d tick=%.1f scout=%d\n", limit, tick, port
            else if (age[n] - age[1] > 300)
                printf "low=%.1f high=%.1f\n", age[1], age[n]
            else
                printf "low=%.1f high=%.1f\n", age[int(n * 0.1) + 1] - 1, age[int(n * 0.9)] + 1
        }' "$TEMP/$1/ages"
}

# ---- the table ----

# failed_count SERVER KIND
failed_count() { awk -v kind="$2" '$1 == kind && $2 == 502 {n = $3} END {print n + 0}' "$TEMP/$1/posts"; }

# Any other status says that the measurement is worth nothing.
other_count() { awk -v kind="$2" '$1 == kind && $2 !~ /^(200|204|502)$/ {n += $3} END {print n + 0}' "$TEMP/$1/posts"; }

# opened_count SERVER KIND FUNCTION
opened_count() {
    awk -v address="${ADDRESS[$2]}" -v port="${SERVER_PORT[$1]}" '$1 == address && $2 == port {n += $3} END {print n + 0}' \
        "$TEMP/opened-$3"
}

# Requests that came twice, by their ids in the server's log; "?" when it has none.
twice_count() {
    awk -v prefix="posts-$2-" 'index($0, prefix) == 1 {ids++; if (++seen[$0] == 2) n++} END {print ids ? n + 0 : "?"}' "$TEMP/$1/ids"
}

# Stale connections that POSTs have met: ours says so of each request, stock only of those that fail.
stale_count() {
    if [[ $2 == stock ]]; then
        grep -cE "(prematurely closed|reset by peer|Broken pipe).* \"POST /$1/[0-9]+/posts " "$TEMP/proxy-$2/error.log" || true
    else
        grep -c "^POST /$1/[0-9]*/posts .*STALE" "$TEMP/proxy-$2/access.log" || true
    fi
}

print_learn() {
    local name row='%-34s %5s %6s %6s %6s %5s %5s %5s %5s %5s %5s %5s %5s %5s %5s\n'
    say
    printf '%-34s %5s %20s %11s %11s %11s %11s %11s\n' "" limit "closes at" 502 stale opened twice calm
    # shellcheck disable=SC2059 # The format is this one.
    printf "$row" "POSTs at the server's limit" ms min median max stock ours stock ours stock ours stock ours stock ours
    for name in "${CHOSEN[@]}"; do
        print_learn_row "$name" "$row"
    done
    say
    say "closes at  the idle age in ms at which the server closes: $AGES connections, with $BUSY other requests per second"
    say "502 ..     of $POSTS POSTs by $CLIENTS clients (PHP-FPM: $POSTS_PHP by $PHP_CLIENTS) about that age; 502: answers; stale: connections"
    say "           that POSTs met; opened: connections, also for one request before them by each client; twice: POSTs that came twice"
    say "calm       connections opened for $((CALM_CLIENTS * (CALM + 1))) POSTs by $CALM_CLIENTS clients at half the limit"
    warn_of_others
}

# print_learn_row SERVER FORMAT
print_learn_row() {
    local kind what cells=()
    for what in min median max; do
        if (($(server_limit "$1"))); then cells+=("$(age_of "$1" "$what")"); else cells+=(-); fi
    done
    for what in failed_count stale_count opened_count twice_count; do
        for kind in "${KINDS[@]}"; do
            cells+=("$("$what" "$1" "$kind" send_posts)")
        done
    done
    for kind in "${KINDS[@]}"; do
        if (($(server_limit "$1"))); then cells+=("$(opened_count "$1" "$kind" send_calmly)"); else cells+=(-); fi
    done
    # shellcheck disable=SC2059 # The format is print_learn's.
    printf "$2" "$(server_label "$1") $(version_of "$1")" "$(server_limit "$1")" "${cells[@]}"
}

warn_of_others() {
    local name kind other
    for name in "${CHOSEN[@]}"; do
        for kind in "${KINDS[@]}"; do
            other=$(other_count "$name" "$kind")
            ((other == 0)) ||
                warn "$(server_label "$name"), $kind: $other answers are neither 200 nor 502: $(xargs <"$TEMP/$name/posts")"
        done
    done
}
