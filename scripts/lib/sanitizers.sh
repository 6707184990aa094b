# nginx and the module with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer: a provider beside those of
# versions.sh, for `scripts/test --asan` only. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Our module alone: the other runs check the Rust code, and the page is the same here.
choose_sanitized() {
    VERSIONS+=("sanitized - the nginx-src crate, compiled here with sanitizers")
    KEYS=(sanitized) CHOSEN=yes QUICK=yes SANITIZED=yes
    MODULES=(ours) BUILD_MODULE=build_sanitized_module
}

note_sanitizer_needs() {
    need "addr2line" binutils have addr2line
    need "the static libraries of gcc's sanitizers" gcc has_sanitizers
}

has_sanitizers() {
    cc -fsanitize=address,undefined -static-libasan -static-libubsan -x c -o /dev/null - <<<'int main(void) { return 0; }'
}

# NGX_DEBUG_PALLOC: each allocation from a pool is a malloc() of its own, so that the sanitizer sees its bounds, and its use
# after the pool is destroyed. Both runtimes are linked statically, because shared libraries have separate options and logs.
provide_sanitized() {
    compile_crate -sanitized \
        --with-cc-opt='-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -DNGX_DEBUG_PALLOC=1' \
        --with-ld-opt='-fsanitize=address,undefined -static-libasan -static-libubsan'
}

# A stable Rust compiler accepts AddressSanitizer only with RUSTC_BOOTSTRAP; no other build of this project sets it, and a
# nightly compiler does not need it. The module calls the runtime in nginx (external-clangrt). Rust has no
# UndefinedBehaviorSanitizer: with debug assertions the compiled code of this crate checks arithmetic, the alignment of pointers
# and the preconditions of the standard library's unsafe functions. The precompiled standard library has neither. nginx unloads
# its modules before it exits, and then reports of leaks would not name functions: hence nodelete. `--target` keeps these
# options away from build scripts.
build_sanitized_module() {
    local version=$1 host
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS='-Zsanitizer=address -Zexternal-clangrt -Cdebug-assertions -Coverflow-checks -Cforce-frame-pointers -Clink-arg=-Wl,-z,nodelete' \
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=1 \
        cargo_for "$version" build --release --target "$host" || return 1
    copy_module "$(target_dir "$version")/$host/release/lib$MODULE.so" "$(built_module "$version")"
}

# sanitized_nginx FOLDER: makes a script that starts nginx with the options of the sanitizers, and with reports in FOLDER/reports.
# nginx does not pass these variables to the binary that it upgrades to, and Test::Nginx changes them; a script that is nginx's
# argv[0] sets them each time. An error ends the process by a signal, which the tests notice. A leak is found when a process
# exits, and does not change its status, because `nginx -t` itself leaks.
sanitized_nginx() {
    local common="log_path=$1/reports/\$file:exitcode=0:abort_on_error=1:handle_abort=1:allocator_may_return_null=1"
    # The workers may run as another user.
    mkdir "$1/reports"
    chmod 777 "$1/reports"
    cat >"$1/nginx" <<WRAPPER
#!/bin/bash
file=nginx
[[ "\$*" =~ $1/servroot/([a-z0-9_-]+)-[^/]*/ ]] && file=\${BASH_REMATCH[1]}
export ASAN_OPTIONS=$common UBSAN_OPTIONS=$common:print_stacktrace=1
exec -a "\$0" $BINARY "\$@"
WRAPPER
    chmod 755 "$1/nginx"
    echo "$1/nginx"
}

# One line of the table: a report that is not a known one of nginx itself is a failure. The known reports must be there: they
# show that reports work.
count_reports() {
    local folder=$TEMP/sanitized-ours/reports log=$LOGS/sanitizer-reports
    rm -rf "$log"
    cp -r "$folder" "$log" 2>/dev/null || return 0
    local known unknown
    read -r known unknown < <("$LIB/sanitizers/reports" "$LIB/sanitizers/known" "$log"/* | tee "$log.log" | tail -n 1) || true
    if ((${known:-0} == 0)); then
        add_result "reports of the sanitizers" ours 0 1 0 "none at all, not even nginx's own: $log.log"
    elif ((unknown)); then
        add_result "reports of the sanitizers" ours 0 "$unknown" 0 "$log.log"
        say
        say "the sanitizers have reported:"
        # Reads all input, because a pipe that is closed early would end this script.
        sed '$d' "$log.log" | awk 'NR <= 40 {print "    " $0}'
    else
        add_result "reports of the sanitizers" ours 1 0 0 "$known, all of them nginx's own"
    fi
}
