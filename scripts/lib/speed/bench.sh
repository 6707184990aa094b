# `scripts/bench` alone: what a request costs, beside the stock pool and HAProxy. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

NGINX='' ROUNDS=20 SECONDS_EACH=1 FEW=1000 MANY=5000

bench_speed() {
    while (($#)); do
        case $1 in
            --quick) ROUNDS=4 FEW=500 MANY=1500 ;;
            --rounds) ROUNDS=${2:?--rounds needs a number} && shift ;;
            --nginx) NGINX=${2:?--nginx needs a binary or a version} && shift ;;
            -h | --help) show_help && exit ;;
            *) die "unknown option $1 (see scripts/bench --help)" ;;
        esac
        shift
    done
    make_temp
    choose_speed_nginx
    have haproxy || leave_out_haproxy
    leave_out_clients

    print_machine
    start_app bench-app
    start_speed_proxies
    measure_speed
    measure_instructions
    print_speed
    print_instructions
    print_aims
}

# Sets NGINX and OUR_MODULE.
choose_speed_nginx() {
    local key=installed
    [[ -z $NGINX ]] || key=$(version_key "$NGINX") || key=''
    case $key in
        installed)
            fulfil_needs note_speed_needs
            use_nginx "$(find_nginx)"
            ;;
        '')
            [[ -x $NGINX ]] || die "no nginx $NGINX here: choose a binary, or one of $(version_keys | xargs)"
            fulfil_needs note_speed_needs
            use_nginx "$(readlink -f "$NGINX")"
            ;;
        *)
            fulfil_needs note_speed_needs
            provide_speed_nginx "$key"
            ;;
    esac
}

# use_nginx BINARY: with the module that scripts/build makes for it.
use_nginx() {
    NGINX=$1
    "$ROOT/scripts/build" --nginx "$NGINX" --no-install
    OUR_MODULE=$(built_module "$(nginx_version "$NGINX")")
}

# provide_speed_nginx KEY: one of scripts/test's versions.
provide_speed_nginx() {
    KEYS=("$1")
    mkdir -p "$CACHE"
    start_versions
    await_version "$1" || die "there is no such nginx here: the lines above say why"
    NGINX=$BINARY
    step "building the module"
    quietly "$ROOT/target/bench-build.log" build_module "$VERSION" || die "the module does not build: see the lines above"
    OUR_MODULE=$(built_module "$VERSION")
}

note_speed_needs() {
    note_build_needs
    note_nginx_needs
    need "wrk" wrk have wrk
    need "taskset" util-linux have taskset
    need "h2load" nghttp2-client have h2load
    need "valgrind" valgrind have valgrind
    note_haproxy_need
}

print_machine() {
    say
    say "nginx      $(nginx_version "$NGINX") ($NGINX)"
    ! have haproxy || say "HAProxy    $(haproxy_version), one thread, http-reuse always"
    say "machine    $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
    say "tools      $(rustc --version), $(valgrind --version), wrk $(wrk -v 2>&1 | sed -n '1s/^wrk \([^ ]*\).*/\1/p')"
    say
}

# write_configuration KIND FOLDER PORT KEEPALIVE
write_configuration() {
    local load='' keepalive="keepalive $4;"
    case $1 in
        ours) load="load_module $OUR_MODULE;" ;;
        none)
            # From this version on a pool is the default, and before it there was no way to say none.
            keepalive=''
            ! version_at_least "$(nginx_version "$NGINX")" 1.29.7 || keepalive='keepalive 0;'
            ;;
    esac
    mkdir -p "$2"
    fill_in "$ROOT/nginx-conf/bench.conf" LOAD_MODULE "$load" FOLDER "$2" TEMP_PATHS "$(temp_paths "$NGINX" "$2")" \
        AFFINITY "$(affinity 01)" APP_PORT "$APP_PORT" PORT "$3" KEEPALIVE "$keepalive" >"$2/nginx.conf"
}

print_aims() {
    local case
    say
    printf '%-46s %8s %8s\n' "ours / stock" measured aim
    for case in "${CASES[@]}"; do
        printf '%-46s %8.3f %8s\n' "requests/s, $(name_of_case "$case")" "$(speed_ratios rate ours "$case" | median)" ">= 1.00"
    done
    printf '%-46s %8.3f %8s\n' "instructions per request" "$(instructions_ratio ours)" "<= 1.01"
}
