# The servers of scripts/soak: scripted backends, two that speak TLS, and nginx before them. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# What the configuration calls them, in the order of the backend's listeners.
LISTENERS=(PLAIN_1 PLAIN_2 BARE EACH_1 EACH_2 EACH_3 QUEUED_1 QUEUED_2 SHORT AUTH PARTS FAULTY DYING_1 DYING_2
    REFUSING_1 REFUSING_2 BEHIND)

# Sets SOAK_ARGUMENTS, by which the load finds them, and SERVER_PIDS.
start_soak_servers() {
    local folder=$TEMP/nginx user='' name i named=()
    mkdir -p "$folder"
    ! is_root || user='user root;'
    for name in server one two; do
        make_certificate "$name" "$folder"
    done

    step "starting the servers"
    start_backend soak "${LISTENERS[@]/*/127.0.0.1:0}" "unix:$TEMP/socket"
    local control=$CONTROL pids=("$PID")
    for i in "${!LISTENERS[@]}"; do
        named+=("${LISTENERS[i]}" "${ADDRESSES[i]}")
    done
    named+=(SOCKET "unix:$TEMP/socket")
    BACKEND_OPTIONS=(--protocol fastcgi)
    start_backend fastcgi
    local fastcgi_control=$CONTROL
    pids+=("$PID")
    named+=(FASTCGI "127.0.0.1:$PORT")

    BACKEND_OPTIONS=(--protocol http2 --journal "$TEMP/journal" --connection 'streams=50&own=1000000')
    start_backend streams 127.0.0.1:0 127.0.0.1:0
    local streams_control=$CONTROL
    pids+=("$PID")
    named+=(STREAMS_1 "${ADDRESSES[0]}" STREAMS_2 "${ADDRESSES[1]}")
    # The load itself starts and kills these.
    local mortals=("127.0.0.1:$(free_port)" "127.0.0.1:$(free_port)")
    named+=(MORTAL_1 "${mortals[0]}" MORTAL_2 "${mortals[1]}")

    local fronts=()
    start_front tls SECURE ''
    start_front streams-tls SECURE_STREAMS ' http2'
    SERVER_PIDS=("${pids[@]}")

    local port
    port=$(free_port)
    fill_in "$ROOT/nginx-conf/soak.conf" MODULE "$OUR_MODULE" FOLDER "$folder" USER "$user" PORT "$port" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$folder")" "${named[@]}" >"$folder/nginx.conf"
    start_nginx "$folder"
    SOAK_ARGUMENTS=(
        --nginx "127.0.0.1:$port" --master "$PID" --error-log "$folder/error.log"
        --control "127.0.0.1:$control" --control "127.0.0.1:$fastcgi_control" --control "127.0.0.1:$streams_control"
        --streams-control "127.0.0.1:$streams_control" "${fronts[@]}"
        --backend "$BACKEND" --mortal "${mortals[0]}" --mortal "${mortals[1]}" --journal "$TEMP/journal"
    )
}

# start_front FOLDER NAME HTTP2: an nginx that speaks TLS; adds to the variables of start_soak_servers.
start_front() {
    local tls=$TEMP/$1 port status_port
    mkdir -p "$tls"
    cp "$folder"/server.* "$tls"
    port=$(free_port) status_port=$(free_port)
    fill_in "$ROOT/nginx-conf/soak-tls.conf" FOLDER "$tls" TEMP_PATHS "$(temp_paths "$NGINX" "$tls")" USER "$user" \
        PORT "$port" STATUS_PORT "$status_port" HTTP2 "$3" "${named[@]}" >"$tls/nginx.conf"
    start_nginx "$tls"
    pids+=("$PID") named+=("$2" "127.0.0.1:$port")
    fronts+=(--front "127.0.0.1:$port" --front-status "127.0.0.1:$status_port")
}

# make_certificate NAME FOLDER: one that signs itself.
make_certificate() {
    quietly "$TEMP/openssl.log" openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" \
        -keyout "$2/$1.key" -out "$2/$1.crt"
}
