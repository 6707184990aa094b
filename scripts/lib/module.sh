# Building the module with cargo, one target folder per nginx. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

target_dir() { echo "$ROOT/target/nginx-$1"; }

note_compiler_needs() {
    local libclang=libclang-dev
    # The two parts that bindgen needs, without the 200 MB around them.
    case $(debian_release) in
        12) libclang="libclang1-14 libclang-common-14-dev" ;;
        13) libclang="libclang1-19 libclang-common-19-dev" ;;
    esac
    need "a C compiler with the C library's headers" "gcc libc6-dev" can_compile '#include <stdio.h>'
    need "libclang, which bindgen reads nginx's headers with" "$libclang" find_libclang
    note_rust_needs
}

note_rust_needs() {
    local wanted
    wanted=$(oldest_rust)
    need "Rust $wanted or newer with cargo$(rust_advice "$wanted")" "$(rust_packages "$wanted")" rust_at_least "$wanted"
    # cargo downloads crates. Debian's rustup or cargo need not have brought these.
    ! is_debian || [[ -n ${SSL_CERT_FILE:-} ]] ||
        need "the certificates of public authorities" ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
}

oldest_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# The distribution's own Rust, where it is new enough and no other one is in the way.
rust_packages() {
    ! have cargo && version_at_least "$(candidate_version rustc)" "$1" || return 0
    echo "cargo rustc"
}

rust_advice() {
    local candidate
    candidate=$(candidate_version rustc)
    if have rustc && have cargo; then
        echo " ($(command -v rustc) is $(rustc --version 2>/dev/null | cut -d' ' -f2): https://rustup.rs has newer ones)"
    elif [[ -z $candidate ]]; then
        echo " (from https://rustup.rs)"
    elif ! version_at_least "$candidate" "$1"; then
        echo " (from https://rustup.rs, as this release's own is ${candidate%%[+-]*})"
    fi
}

# Those of the same source as cargo.
note_rust_tools_need() {
    local packages=''
    if [[ -n $(rust_packages "$(oldest_rust)") || $(command -v cargo) == /usr/bin/cargo ]]; then
        packages="rustfmt rust-clippy"
    fi
    need "rustfmt and clippy$([[ -n $packages ]] || echo " (rustup component add rustfmt clippy)")" "$packages" has_rust_tools
}

has_rust_tools() { cargo fmt --version && cargo clippy --version; }

# nginx compiled here, from source, needs its libraries' headers as well.
note_nginx_needs() {
    need "make" make have make
    note_backend_needs
    need "PCRE2's headers" libpcre2-dev can_compile $'#define PCRE2_CODE_UNIT_WIDTH 8\n#include <pcre2.h>'
    need "zlib's headers" zlib1g-dev can_compile '#include <zlib.h>'
}

# The backend and the load of tests, demo and benchmarks.
note_backend_needs() {
    need "OpenSSL's headers" libssl-dev can_compile '#include <openssl/ssl.h>'
}

can_compile() { have cc && cc -fsyntax-only -x c - <<<"$1"; }

# libclang-cpp.so, which other packages bring along, is another library.
find_libclang() {
    [[ -z ${LIBCLANG_PATH:-} ]] || return 0
    ldconfig -p 2>/dev/null | grep '[[:space:]]libclang\(-[0-9.]*\)\?\.so' ||
        compgen -G '/usr/lib/llvm*/lib/libclang[.-][s0-9]*' || compgen -G '/usr/lib*/libclang.so*'
}

rust_at_least() { have cargo && version_at_least "$(rustc --version | cut -d' ' -f2)" "$1"; }

# cargo_for NGINX-VERSION ARGUMENT..: cargo with the headers that find_headers chose.
cargo_for() {
    local version=$1
    shift
    (cd "$ROOT" && CARGO_TARGET_DIR=$(target_dir "$version") \
        NGINX_SOURCE_DIR=$SOURCE_DIR NGINX_BUILD_DIR=$BUILD_DIR cargo "$@")
}

# build_module VERSION [CARGO-ARGUMENT..]: prints nothing itself; the module is then at built_module VERSION.
build_module() {
    local version=$1 target
    shift
    target=$(target_dir "$version")
    cargo_for "$version" build --release "$@" || return 1
    copy_module "$target/release/lib$MODULE.so" "$(built_module "$version")"
}

# One whose allocations fail when a test wants it, at failing_module VERSION.
build_failing_module() {
    cargo_for "$1-failing" build --release --features fail-allocations || return 1
    copy_module "$(target_dir "$1-failing")/release/lib$MODULE.so" "$(failing_module "$1")"
}

failing_module() { built_module "$1-failing"; }

built_module() { echo "$(target_dir "$1")/$MODULE.so"; }

# With no nginx on the machine: cargo compiles the one of the nginx-src crate, and the module against it.
build_vendored() {
    # nginx-src chooses few of nginx's modules itself; these are the ones that tests, demo and most configurations use.
    export NGX_CONFIGURE_ARGS="--with-debug --with-http_auth_request_module --with-http_stub_status_module"
    (cd "$ROOT" && env -u NGINX_SOURCE_DIR -u NGINX_BUILD_DIR CARGO_TARGET_DIR="$(target_dir vendored)" \
        cargo build --release --features vendored) || return 1
    copy_module "$(target_dir vendored)/release/lib$MODULE.so" "$(built_module vendored)"
}

# The newest one, as cargo keeps the output of earlier configurations.
vendored_nginx() {
    local found
    # shellcheck disable=SC2012 # cargo's folder names hold nothing but letters, digits and dashes.
    found=$(ls -t "$(target_dir vendored)"/release/build/nginx-sys-*/out/objs/nginx 2>/dev/null | head -n 1)
    [[ -n $found ]] && echo "$found"
}

# Replaces the file by a rename: a running nginx has the old one mapped, and writing into that would crash it.
copy_module() {
    cmp -s "$1" "$2" && return
    install -m 644 "$1" "$2.new" && mv -f "$2.new" "$2"
}

# check_module NGINX MODULE: stops unless that nginx takes the module, with a configuration that has a pool.
check_module() {
    write_check_configuration "$1" "$2" >"$TEMP/nginx.conf"
    if ! "$1" -t -q -e stderr -c "$TEMP/nginx.conf" 2>"$TEMP/message"; then
        sed 's/^/    /' "$TEMP/message" >&2
        die "$1 -t does not accept the module: see the lines above"
    fi
}

# Everything that this configuration would touch is in a folder of our own, so that the check needs no root.
write_check_configuration() {
    cat <<CONF
load_module $2;
pid $TEMP/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
$(temp_paths "$1" "$TEMP")
    upstream check {
        server 127.0.0.1:1;
        keepalive 1;
    }
}
CONF
}
