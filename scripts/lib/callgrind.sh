# What `scripts/bench pool`, `queue`, `auth`, `stale`, `status` and `streams` share: their options, an nginx with symbols, and
# valgrind's callgrind, which counts its instructions. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_callgrind_needs() {
    note_compiler_needs
    note_nginx_needs
    need "valgrind" valgrind have valgrind
    need "flock" util-linux have flock
    need "pgrep" procps have pgrep
}

# begin_bench NEEDS QUICK OPTION..: what each of these benchmarks begins with. With --quick the assignments QUICK are made.
begin_bench() {
    local needs=$1 quick=$2
    shift 2
    while (($#)); do
        case $1 in
            --quick) eval "$quick" ;;
            -h | --help) show_help && exit ;;
            *) die "unknown option $1 (see scripts/bench --help)" ;;
        esac
        shift
    done
    make_temp
    fulfil_needs "$needs"
    provide_nginx_with_symbols
}

# A distribution's binary is stripped, and functions could not be told apart in it. The one that is compiled here has
# its symbols, and the module gets a build of its own with them.
provide_nginx_with_symbols() {
    KEYS=(crate)
    mkdir -p "$CACHE"
    start_versions
    await_version crate || die "nginx cannot be compiled here: the lines above say why"
    NGINX=$BINARY
    step "building the module with symbols"
    CARGO_PROFILE_RELEASE_STRIP=none quietly "$ROOT/target/bench-build.log" build_module "$VERSION-symbols" ||
        die "the module does not build: see the lines above"
    OUR_MODULE=$(built_module "$VERSION-symbols")
}

print_counting_machine() {
    say
    say "nginx      $VERSION, compiled here with configure's own optimisation ($(compiler_options))"
    say "machine    $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
    say "tools      $(rustc --version), $(cc --version | head -n 1), $(valgrind --version)"
}

compiler_options() { sed -n 's/^CFLAGS = *//p' "$BUILD_DIR/Makefile" | grep -o -e '-O[^ ]*' | head -n 1; }

# start_callgrind FOLDER PORT: an nginx of one process, with FOLDER/nginx.conf; nothing is counted yet. Its dumps are
# FOLDER/callgrind.out.N.
start_callgrind() {
    start_program_under_callgrind "$1" "$2" \
        "$NGINX" -p "$1" -e "$1/error.log" -c "$1/nginx.conf" -g 'daemon off; master_process off;'
}

# start_program_under_callgrind FOLDER PORT COMMAND..
start_program_under_callgrind() {
    local folder=$1 port=$2
    shift 2
    # Symbols are bound at the start, or the first call of each function would pay for that.
    LD_BIND_NOW=1 valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$folder/callgrind.out" "$@" \
        >"$folder/valgrind.log" 2>&1 </dev/null &
    VALGRIND_PID=$!
    wait_for 60 http_get "$port" /ready >/dev/null 2>&1 ||
        die "$1 does not start under valgrind: $(tail -n 5 "$folder/valgrind.log")"
}

# Whatever happens, valgrind is stopped in the end.
stop_callgrind_at_exit() {
    VALGRIND_PID=
    at_exit 'stop_pid "$VALGRIND_PID"'
}

stop_callgrind() {
    kill -TERM "$VALGRIND_PID"
    wait "$VALGRIND_PID" || true
    VALGRIND_PID=
}

# A dump also sets the counters to zero.
control_callgrind() {
    callgrind_control "$1" "$VALGRIND_PID" >"$TEMP/callgrind_control.log" 2>&1 ||
        die "callgrind_control $1 failed: $(cat "$TEMP/callgrind_control.log")"
}

# dump_of FOLDER NAME: the file of that dump.
dump_of() { grep -l "^desc: Trigger:.* $2\$" "$1"/callgrind.out.*; }

instructions_in() { sed -n 's/^totals: *//p' "$1"; }

# calls_in DUMP FUNCTION..: how often each of these C functions was called, one line each. What an allocator calls of itself is left
# out. callgrind gives each function a number and writes its name next to that only the first time.
calls_in() {
    awk -v functions="${*:2}" '
        function name_of(text, id) {
            id = text
            sub(/\).*/, ")", id)
            if (text != id) names[id] = substr(text, length(id) + 2)
            return names[id]
        }
        /^fn=/ {caller = name_of(substr($0, 4))}
        /^cfn=/ {callee = name_of(substr($0, 5))}
        /^calls=/ && caller !~ /^(malloc|posix_memalign|_mid_memalign)/ {count[callee] += substr($1, 7)}
        END {
            n = split(functions, wanted, " ")
            for (i = 1; i <= n; i++) print count[wanted[i]] + 0
        }' "$1"
}

quotient() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.3f", a / b}'; }
