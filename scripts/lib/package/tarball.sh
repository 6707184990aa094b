# The tarball, for one version and build of an nginx that is not Debian's. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_tarball_needs() {
    note_compiler_needs
    note_headers_need "$NGINX"
    need "objdump" binutils have objdump
    need "Perl's JSON::PP" perl perl -MJSON::PP -e 1
}

make_tarball() {
    local name tree module
    name=nginx-upstream-keepalive-rs-$MODULE_VERSION-nginx-$NGINX_VERSION-$(uname -m)
    tree=$TEMP/$name module=$(built_module "$NGINX_VERSION")
    mkdir -p "$tree"
    install -m 644 "$module" "$tree/$MODULE.so"
    cp -r "$ROOT"/README.md "$ROOT"/CHANGELOG.md "$ROOT"/LICENSE "$ROOT"/docs "$tree/"
    write_copyright >"$tree/COPYRIGHT" || die "see cargo's message above"
    copy_examples "$tree/examples"
    fill_in "$LIB/package/INSTALL" VERSION "$MODULE_VERSION" NGINX_VERSION "$NGINX_VERSION" MACHINE "$(uname -sm)" \
        GLIBC "$(glibc_needed "$module")" MODULE "$MODULE.so" MODULES "$(nginx_modules_path "$NGINX")" \
        PID "$(nginx_argument "$NGINX" --pid-path "$(nginx_prefix "$NGINX")/logs/nginx.pid")" \
        ARGUMENTS "$("$NGINX" -V 2>&1 | sed -n 's/^configure arguments: //p')" >"$tree/INSTALL"
    tar -C "$TEMP" --sort=name --owner=0 --group=0 --numeric-owner -czf "$OUTPUT/$name.tar.gz" "$name"
    step "made $OUTPUT/$name.tar.gz. The file INSTALL in it says the rest"
}

# The newest of the versions of the C library whose functions a file uses.
glibc_needed() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | cut -d_ -f2; }
