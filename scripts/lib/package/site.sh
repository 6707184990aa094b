# What the checks of packages look at: an nginx in a chroot with processes and a network of its own, with a site whose
# requests go through a pool. Sourced there, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FILE=/usr/lib/nginx/modules/$MODULE.so

begin_life() {
    mount -t proc proc /proc
    ip link set lo up
    write_site
}

# The server behind says how many requests its connection has had.
write_site() {
    mkdir -p /etc/nginx/conf.d
    cat >/etc/nginx/conf.d/site.conf <<'CONF'
upstream app { server 127.0.0.1:8081; keepalive 8; }
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }
}
server { listen 127.0.0.1:8081; location / { return 200 "request $connection_requests"; } }
CONF
}

answers() { [[ $(http_get 8080 /) == 'request '* ]]; }

# A directive that only the module knows.
write_status() {
    echo 'server { listen 127.0.0.1:8082; location / { keepalive_status; } }' >/etc/nginx/conf.d/status.conf
}

# The counters are the module's own, so the requests have gone through it.
reuse_seen() { (($(http_get 8082 '/?format=json' | grep -o '"reused": *[0-9]*' | grep -o '[0-9]*$' | sort -n | tail -n 1) > 10)); }

master() { cat /run/nginx.pid; }

# All workers have the module.
in_use() {
    local pid workers
    mapfile -t workers < <(pgrep -P "$(master)")
    ((${#workers[@]})) || return 1
    for pid in "${workers[@]}"; do
        grep -q "$FILE" "/proc/$pid/maps" || return 1
    done
}

new_file_in_use() { in_use && ! grep -q "$FILE (deleted)" "/proc/$(master)/maps"; }

# ok WHAT COMMAND..
ok() {
    local what=$1
    shift
    if "$@"; then
        say "ok: $what"
    else
        die "not so: $what"
    fi
}
