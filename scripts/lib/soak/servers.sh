# The servers of scripts/soak: scripted backends, one that speaks TLS, and nginx before them. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# What the configuration calls them, in the order of the backend's listeners.
LISTENERS=(PLAIN_1 PLAIN_2 BARE EACH_1 EACH_2 EACH_3 QUEUED_1 QUEUED_2 SHORT AUTH PARTS FAULTY DYING_1 DYING_2
    REFUSING_1 REFUSING_2 BEHIND)

# Sets SOAK_ARGUMENTS, by which the load finds them, and SERVER_PIDS.
start_soak_servers() {
    local folder=$TEMP/nginx tls=$TEMP/tls user='' name i named=()
    mkdir -p "$folder" "$tls"
    ! is_root || user='user root;'
    for name in server one two; do
        make_certificate "$name" "$folder"
    done
    cp "$folder"/server.* "$tls"

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

    local tls_port status_port port
    tls_port=$(free_port) status_port=$(free_port)
    fill_in "$ROOT/nginx-conf/soak-tls.conf" FOLDER "$tls" TEMP_PATHS "$(temp_paths "$NGINX" "$tls")" USER "$user" \
        PORT "$tls_port" STATUS_PORT "$status_port" "${named[@]}" >"$tls/nginx.conf"
    start_nginx "$tls"
    SERVER_PIDS=("${pids[@]}" "$PID")

    port=$(free_port)
    fill_in "$ROOT/nginx-conf/soak.conf" MODULE "$OUR_MODULE" FOLDER "$folder" USER "$user" PORT "$port" \
        TEMP_PATHS "$(temp_paths "$NGINX" "$folder")" SECURE "127.0.0.1:$tls_port" "${named[@]}" >"$folder/nginx.conf"
    start_nginx "$folder"
    SOAK_ARGUMENTS=(
        --nginx "127.0.0.1:$port" --master "$PID" --error-log "$folder/error.log"
        --control "127.0.0.1:$control" --control "127.0.0.1:$fastcgi_control"
        --front "127.0.0.1:$tls_port" --front-status "127.0.0.1:$status_port"
    )
}

# make_certificate NAME FOLDER: one that signs itself.
make_certificate() {
    quietly "$TEMP/openssl.log" openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" \
        -keyout "$2/$1.key" -out "$2/$1.crt"
}
