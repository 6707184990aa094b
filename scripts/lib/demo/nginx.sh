# What scripts/demo runs: nginx with and without our module, a server behind it, and h2load in front. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

STOCK="stock nginx" OURS="this module" NGINX_PID='' OPEN_FILES=4096

# ---- before ----

note_needs() {
    [[ -n $OUR_MODULE ]] || note_build_needs
    need "h2load, the client program" nghttp2-client have h2load
    need "openssl, which makes certificates" openssl have openssl
    need "$OPEN_FILES open files for a process (ulimit -Hn says $(ulimit -Hn))" "" test "$(ulimit -Sn)" -ge "$OPEN_FILES"
}

# The usual limit of 1,024 is less than 1,000 clients need.
raise_open_files() { ulimit -Sn $((2 * OPEN_FILES)) 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"; }

# Sets NGINX and OUR_MODULE unless both are given, and builds the server unless it is there.
provide_programs() {
    local argument
    if [[ -z $OUR_MODULE ]]; then
        build_for_this_machine
        build_backend
    elif [[ ! -x $BACKEND ]]; then
        build_backend
    fi
    for argument in --with-http_auth_request_module --with-http_ssl_module; do
        nginx_has_argument "$NGINX" "$argument" || die "$NGINX was compiled without $argument, which this demonstration needs"
    done
    TEMP_PATHS=$(temp_paths "$NGINX" "$TEMP/nginx")
    # As nginx counts for `worker_processes auto`.
    WORKERS=$(getconf _NPROCESSORS_ONLN)
}

# The same choice as scripts/build makes.
build_for_this_machine() {
    local version
    if NGINX=$(find_nginx); then
        version=$(nginx_version "$NGINX")
        step "nginx $version at $NGINX"
        find_headers "$NGINX" "$(target_dir "$version")/tree"
        step "building the module (some minutes for the first time)"
        build_module "$version" || die "the module does not build: see cargo's message above"
        OUR_MODULE=$(built_module "$version")
    else
        step "no nginx here: building one and the module (some minutes for the first time)"
        build_vendored || die "nginx or the module does not build: see cargo's message above"
        NGINX=$(vendored_nginx)
        OUR_MODULE=$(built_module vendored)
    fi
}

# The server of acts 1 and 2. It speaks HTTP/1.1 and HTTP/2.
start_server() {
    local BACKEND_OPTIONS=(--protocol http2 --connection "streams=$AT_ONCE")
    start_backend server
    SERVER_PID=$PID SERVER_PORT=$PORT SERVER_CONTROL=$CONTROL
    at_exit 'stop_pid "$NGINX_PID"'
}

server_count() { backend_count "$SERVER_CONTROL" "$1"; }

# ---- nginx ----

# start_nginx_with KIND AUTH: with our module or without, with AUTH in the upstream of act 1. It has no connections to the server,
# which counts from nothing. Sets NGINX_PID and NGINX_PORT.
start_nginx_with() {
    local tries=5
    stop_nginx
    until write_configuration "$@" && run_nginx; do
        # Somebody was faster at one of the ports.
        if ((--tries == 0)) || ! grep -q 'Address already in use' "$TEMP/nginx.out"; then
            die "nginx does not start: $(cat "$TEMP/nginx.out")"
        fi
    done
}

write_configuration() {
    local load='' page=''
    if [[ $1 == "$OURS" ]]; then
        load="load_module $OUR_MODULE;" page="location = /upstreams { keepalive_status; }"
    fi
    NGINX_PORT=$(free_port) TLS_PORT=$(free_port)
    rm -rf "$TEMP/nginx"
    mkdir "$TEMP/nginx"
    fill_in "$ROOT/nginx-conf/demo.conf" LOAD_MODULE "$load" STATUS_PAGE "$page" AUTH "$2" FOLDER "$TEMP/nginx" \
        TEMP_PATHS "$TEMP_PATHS" CERTIFICATES "$CERTIFICATES" IDLE "$IDLE" \
        PORT "$NGINX_PORT" TLS_PORT "$TLS_PORT" SERVER_PORT "$SERVER_PORT" >"$TEMP/nginx/nginx.conf"
}

run_nginx() {
    "$NGINX" -p "$TEMP/nginx" -e "$TEMP/nginx/error.log" -c "$TEMP/nginx/nginx.conf" >"$TEMP/nginx.out" 2>&1 || return 1
    wait_for 5 test -s "$TEMP/nginx/nginx.pid" || die "nginx has written no pid file: $(cat "$TEMP/nginx/error.log")"
    NGINX_PID=$(cat "$TEMP/nginx/nginx.pid")
}

stop_nginx() {
    stop_pid "$NGINX_PID"
    NGINX_PID=''
    wait_for 10 no_connections || die "the server still has connections"
    http_get "$SERVER_CONTROL" /reset >/dev/null
}

no_connections() { [[ $(server_count open) == 0 ]]; }

# ---- load ----

# load NAME ARGUMENT..: requests by h2load for the row of this name. Sets ANSWERED, how many have got 2xx, and SPEED, requests
# per second.
load() {
    local name=$1 out=$TEMP/h2load.out
    shift
    timeout 110 h2load --h1 "$@" 2>&1 </dev/null | tee "$out" | follow "$name" || true
    ANSWERED=$(sed -n 's/^status codes: \([0-9]*\) 2xx.*/\1/p' "$out")
    SPEED=$(sed -n 's|^finished in [^,]*, \([0-9]*\)[.0-9]* req/s.*|\1|p' "$out")
    [[ -n $ANSWERED && -n $SPEED ]] || die "h2load failed: $(tail -n 5 "$out")"
}
