# Checks the ways to build the module that the suite does not use, and one that must fail. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

check_builds() {
    load_version installed && check_once "headers of another build are refused" other_headers_are_refused
    load_version crate && check_once "nginx's own way to build" own_build_works
    check_package
    check_image
    return 0
}

# One more bit in ngx_connection_t, as in Debian's 1.22.1: nginx's own check of version and signature does not notice it.
other_headers_are_refused() (
    local tree=$TEMP/other-headers said
    copy_with_one_bit_more "$tree" || return 1
    SOURCE_DIR=$tree/source BUILD_DIR=$tree/objs
    cargo_for other-headers build --release || return 1
    printf '%s\n' "load_module $(target_dir other-headers)/release/lib$MODULE.so;" "pid $tree/pid;" \
        'events {}' 'http { upstream u { server 127.0.0.1:1; } }' >"$tree/nginx.conf"
    if said=$("$BINARY" -t -p "$tree" -e stderr -c "$tree/nginx.conf" 2>&1); then
        say "nginx -t accepts it"
        return 1
    fi
    say "$said"
    [[ $said == *'is not binary compatible'*'rebuild it'* ]]
)

copy_with_one_bit_more() {
    local tree=$1 header=$1/source/src/core/ngx_connection.h
    mkdir -p "$tree" &&
        cp -rL "$SOURCE_DIR/." "$tree/source" &&
        cp -rL "$BUILD_DIR/." "$tree/objs" &&
        sed -i 's/^\( *unsigned *\)idle:1;/\1one_bit_more:1;\n&/' "$header" &&
        grep -q one_bit_more "$header" &&
        # The makefile may name the folder of the headers.
        sed -i "s|$SOURCE_DIR|$tree/source|g" "$tree/objs/Makefile"
}

# ./configure --add-dynamic-module; and --add-module, which must ask for an nginx without the stock module. (`set -e` has no
# effect here, since the caller checks the status.)
own_build_works() (
    local source tree=$TEMP/own
    source=$(crate_source) &&
        cp -r "$source" "$tree" &&
        cd "$tree" &&
        own_build --add-dynamic-module="$ROOT" &&
        own_build_serves "$tree/objs/$MODULE.so" || return 1

    if auto/configure --with-http_ssl_module --add-module="$ROOT"; then
        say "a static module beside the stock one is accepted"
        return 1
    fi
    own_build --add-module="$ROOT" --without-http_upstream_keepalive_module &&
        own_build_serves '' &&
        own_build_is_ours
)

own_build() {
    rm -rf objs &&
        auto/configure --with-http_ssl_module "$@" &&
        make -j "$(nproc)"
}

own_build_serves() (
    cd "$ROOT" && mkdir -p "$tree/run/tmp" || return 1
    BINARY=$tree/objs/nginx
    suite_environment "$tree/run" ours \
        env TEST_NGINX_LOAD_MODULES="$1" prove t/config/high-values.t t/pool/eviction.t t/identity/tls.t
)

# The stock module of this version does not accept `keepalive 0`.
own_build_is_ours() {
    printf '%s\n' "pid $tree/pid;" 'events {}' 'http {' "client_body_temp_path $tree/temp;" \
        "proxy_temp_path $tree/temp;" "fastcgi_temp_path $tree/temp;" "uwsgi_temp_path $tree/temp;" \
        "scgi_temp_path $tree/temp;" 'upstream u { server 127.0.0.1:1; keepalive 0; }' '}' >"$tree/static.conf"
    "$tree/objs/nginx" -t -p "$tree" -e stderr -c "$tree/static.conf"
}
