# The versions of nginx that the tests run on. Each is provided by one function, which sets VERSION, BINARY, SOURCE_DIR
# and BUILD_DIR, or stops with the reason why it is not available. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# key, its version, description
VERSIONS=(
    "installed - the nginx of this machine"
    "bookworm  1.22 Debian 12's binary"
    "trixie    1.26 Debian 13's binary"
    "crate     1.28 the nginx-src crate, compiled here"
    "sid       1.30 Debian sid's binary"
)
# A release has its own one installed.
case $(debian_release) in
    12) unset 'VERSIONS[1]' ;;
    13) unset 'VERSIONS[2]' ;;
esac

version_keys() { printf '%s\n' "${VERSIONS[@]}" | awk '{print $1}'; }

version_label() { printf '%s\n' "${VERSIONS[@]}" | sed -n "s/^$1 *[^ ]* //p"; }

# The keys that a word of the command line selects: a key, or the beginning of a version.
version_key() {
    local key number _
    for entry in "${VERSIONS[@]}"; do
        read -r key number _ <<<"$entry"
        if [[ $key == installed ]] && BINARY=$(find_nginx); then
            number=$(nginx_version "$BINARY")
        fi
        if [[ $1 == "$key" || $number == "$1" || $number == "$1".* || $1 == "$number".* ]]; then
            echo "$key"
            return
        fi
    done
    return 1
}

# The installed nginx, with the headers that scripts/build would use.
provide_installed() {
    BINARY=$(find_nginx) || die "no nginx is installed"
    VERSION=$(nginx_version "$BINARY")
    find_headers "$BINARY" "$(target_dir "$VERSION")/tree"
}

# nginx from the source in the nginx-src crate, with the modules that the tests use.
provide_crate() {
    compile_crate ""
}

# compile_crate SUFFIX ARGUMENT..: the suffix is added to the version, and so to the names of folders.
compile_crate() {
    local suffix=$1 source arguments
    shift
    source=$(crate_source) || die "cargo does not find the source of the nginx-src crate"
    VERSION=$(source_version "$source")$suffix
    local tree=$CACHE/nginx-$VERSION
    arguments=(
        --with-compat --with-debug --with-threads --with-pcre-jit
        --with-http_ssl_module --with-http_v2_module --with-http_v3_module
        --with-http_auth_request_module --with-http_realip_module --with-http_stub_status_module
        --with-http_addition_module --with-http_sub_module --with-http_slice_module
        "$@"
    )
    configure_tree "$source" "$tree" "${arguments[@]}" || die "nginx $VERSION cannot be configured"
    # make knows what is up to date, and configure_tree starts from nothing when anything has changed.
    quietly "$tree/make.log" make -C "$tree" -f "$tree/objs/Makefile" -j "$(nproc)" binary ||
        die "nginx $VERSION does not compile"
    BINARY=$tree/objs/nginx SOURCE_DIR=$tree BUILD_DIR=$tree/objs
}

crate_source() {
    local manifest
    manifest=$(cd "$ROOT" && cargo metadata --format-version 1 --features vendored --filter-platform "$(host_platform)" 2>/dev/null |
        grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*"' | head -n 1 | cut -d'"' -f4)
    [[ -n $manifest ]] && echo "${manifest%/Cargo.toml}/nginx"
}

# cargo downloads the crates for other systems as well unless it is told this one's name.
host_platform() { rustc -vV | sed -n 's/^host: //p'; }

provide_bookworm() { provide_suite bookworm; }
provide_trixie() { provide_suite trixie; }
provide_sid() { provide_suite sid; }

# The nginx of another Debian suite, unpacked into a folder. It runs without chroot, by the loader of that folder.
provide_suite() {
    local folder=$CACHE/$1
    BINARY=$CACHE/nginx-$1
    if ! { suite_complete "$folder" && write_wrapper "$folder" "$BINARY"; }; then
        fetch_suite "$1" "$folder"
        suite_complete "$folder" || die "Debian's $1 has no usable nginx and nginx-dev"
        write_wrapper "$folder" "$BINARY" || die "Debian's $1 has no program loader where it is looked for"
    fi
    VERSION=$(nginx_version "$BINARY")
    [[ -n $VERSION ]] || die "the nginx of Debian's $1 does not run on this machine"
    read_debian_arguments "$folder/usr/share/nginx/src"
    configure_tree "$folder/usr/share/nginx/src" "$CACHE/tree-$1" "${CONFIGURE_ARGUMENTS[@]}" ||
        die "the headers of nginx $VERSION cannot be configured"
    SOURCE_DIR=$CACHE/tree-$1 BUILD_DIR=$CACHE/tree-$1/objs
}

suite_complete() { [[ -x $1/usr/sbin/nginx && -f $1/usr/share/nginx/src/conf_flags ]]; }

# The second stage of debootstrap, which sets packages up in a chroot, is not needed: unpacked files are enough.
fetch_suite() {
    local suite=$1 folder=$2 archive deb
    is_root || die "debootstrap needs root"
    have debootstrap || die "debootstrap is missing"
    archive=$(debian_archive) || die "this machine's apt has no archive of Debian"
    rm -rf "$folder.new"
    mkdir -p "$CACHE"
    quietly "$CACHE/log/debootstrap-$suite" timeout 900 \
        debootstrap --foreign --variant=minbase --include=nginx,nginx-dev "$suite" "$folder.new" "$archive" ||
        die "debootstrap of $suite failed"
    for deb in "$folder.new"/var/cache/apt/archives/*.deb; do
        dpkg-deb -x "$deb" "$folder.new"
    done
    rm -rf "$folder.new"/var/cache/apt/archives "$folder"
    mv "$folder.new" "$folder"
}

# A binary upgrade (USR2) runs argv[0] again, so argv[0] must be the wrapper and not the loader.
write_wrapper() {
    local folder=$1 libraries loader
    loader=$(compgen -G "$folder/lib64/ld-linux*" || compgen -G "$folder/lib/ld-linux*") || return 1
    libraries=$(dirname "$(find "$folder/usr/lib" -name 'libpcre2-8.so.0' | head -n 1)")
    cat >"$2.new" <<WRAPPER
#!/bin/sh
exec $loader --library-path $libraries --argv0 "\$0" $folder/usr/sbin/nginx "\$@"
WRAPPER
    chmod 755 "$2.new"
    mv -f "$2.new" "$2"
}
