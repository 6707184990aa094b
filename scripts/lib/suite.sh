# Runs t/*/*.t on each version of nginx, with the stock module and with ours, several files at a time. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# No t/*/*.t runs without the backend.
build_backend() {
    local log=$LOGS/build-backend.log
    step "building the test backend"
    if ! quietly "$log" cargo build --release -p backend; then
        add_result "the test backend" "" 0 1 0 "does not build: $log"
        return 1
    fi
}

# One build after the other: cargo uses all cores by itself.
build_modules() {
    local key
    for key in "${KEYS[@]}"; do
        await_version "$key" || continue
        step "building the module for nginx $VERSION"
        quietly "$LOGS/build-$VERSION.log" "$BUILD_MODULE" "$VERSION" || touch "$TEMP/$key.unbuilt"
        is_for_failures "$key" || continue
        step "building the module whose allocations can fail"
        quietly "$LOGS/build-failing.log" build_failing_module "$VERSION" || touch "$TEMP/$key.unbuilt"
    done
}

# The modules that each version runs with, the function that builds ours, and whether it is built with sanitizers.
MODULES=(stock ours)
BUILD_MODULE=build_module
SANITIZED=no

# The process id of run_suites while it runs.
SUITES=

# In the background: tests mostly wait, so other checks can run meanwhile.
start_suites() {
    run_suites &
    SUITES=$!
    at_exit stop_suites
}

run_suites() {
    local key module
    for key in "${KEYS[@]}"; do
        for module in "${MODULES[@]}"; do
            ! can_run "$key" "$module" || run_suite "$key" "$module"
        done
    done
    # With files chosen by name, the first result counts.
    [[ $CHOSEN_FILES == no ]] || return 0
    for key in "${KEYS[@]}"; do
        for module in "${MODULES[@]}"; do
            ! can_run "$key" "$module" || try_again "$key" "$module"
        done
    done
}

await_suites() {
    local key module
    [[ -n $SUITES ]] || return 0
    wait "$SUITES" || true
    SUITES=
    for key in "${KEYS[@]}"; do
        for module in "${MODULES[@]}"; do
            count_suite "$key" "$module"
            [[ $key != sanitized ]] || count_reports
        done
    done
}

stop_suites() {
    local folder
    [[ -z $SUITES ]] || stop_tree "$SUITES"
    for folder in "$TEMP"/*-stock "$TEMP"/*-ours; do
        [[ ! -d $folder ]] || stop_leftovers "$folder"
    done
}

can_run() { load_version "$1" && [[ $2 == stock || ! -e $TEMP/$1.unbuilt ]]; }

suite_log() { echo "$LOGS/nginx-$VERSION-$1.log"; }

run_suite() {
    local key=$1 module=$2 log folder started=$SECONDS
    log=$(suite_log "$module")
    # Short names: the path of a unix socket has at most 107 characters.
    folder=$TEMP/$key-$module
    mkdir -p "$folder/tmp"
    : >"$log"
    local files=("${FILES[@]}")
    is_for_browser "$key" || mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -vx "$PAGE_TEST")
    is_for_server_tests "$key" || mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -vxE "$SERVER_TESTS")
    step "nginx $VERSION on $(module_label "$module"): ${#files[@]} files"
    # Five files at a time for two cores: they mostly wait. Each file finds its own ports.
    prove_files "$module" "$folder" "$log" $((5 * $(nproc) / 2)) "${files[@]}"
    echo $((SECONDS - started)) >"$folder.seconds"
}

# prove_files MODULE FOLDER LOG JOBS FILE..: leaves the counts in FOLDER.totals.
prove_files() {
    local module=$1 folder=$2 log=$3 jobs=$4 pid
    shift 4
    suite_environment "$folder" "$module" timeout --kill-after=10 1500 \
        prove --harness Totals --timer --jobs "$jobs" "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    follow_log "$pid" "$log" "$VERSION $module"
    wait "$pid" || true
    stop_leftovers "$folder"
}

# Many tests measure time, and a busy machine can make a correct one fail. If only one to three files fail, they run a second
# time, alone, when nothing else runs; the table names them. The log of the first run is kept, so that an intermittent fault
# of ours can be found there.
try_again() {
    local key=$1 module=$2 folder=$TEMP/$1-$2 log files
    mapfile -t files < <(awk '$2 {print $4}' "$folder.totals" 2>/dev/null)
    ((${#files[@]} >= 1 && ${#files[@]} <= 3)) || return 0
    log=$(suite_log "$module-again")
    step "nginx $VERSION on $(module_label "$module"): ${files[*]} once more, alone"
    mv "$folder.totals" "$folder.first"
    prove_files "$module" "$folder" "$log" 1 "${files[@]}"
    [[ -s $folder.totals ]] || { mv "$folder.first" "$folder.totals" && return; }
    mv "$folder.totals" "$folder.again"
    # The first counts stand, except for files that have passed completely now.
    awk 'NR == FNR {if (!$2) again[$4] = $0; next} {print $4 in again ? again[$4] : $0}' \
        "$folder.again" "$folder.first" >"$folder.totals"
    awk '!$2 {print $4}' "$folder.again" >"$folder.helped"
}

PAGE_TEST=t/status/page.t

# The page is the same on each nginx: the browser test runs on the first version only, without --quick, or if it is chosen alone.
is_for_browser() { [[ ${FILES[*]} == "$PAGE_TEST" || ($1 == "${KEYS[0]}" && $QUICK == no) ]]; }

# What these show is how the module behaves towards servers, which is the same on each nginx, and they take long: they run on the
# first and on the last version, or if files are chosen.
SERVER_TESTS='t/(docs/demo|streams/(dead|fairness|hostile|lifecycle|many)|stale/learn(-link|-servers)?)\.t'

is_for_server_tests() { [[ $CHOSEN_FILES == yes || $1 == "${KEYS[0]}" || $1 == "${KEYS[-1]}" ]]; }

FAILURES_TEST=t/exhaustion/alloc-failures.t

# This file needs its own build of the module; one version of nginx is enough.
is_for_failures() { [[ $1 == crate && $QUICK == no && " ${FILES[*]} " == *" $FAILURES_TEST "* ]]; }

module_label() { [[ $1 == stock ]] && echo "the stock module" || echo "our module"; }

# suite_environment FOLDER MODULE COMMAND..
suite_environment() {
    local folder=$1 load='' failing='' binary=$BINARY
    [[ $2 == stock ]] || load=$(built_module "$VERSION")
    [[ $2 == stock ]] || ! is_for_failures "${key:-}" || failing=$(failing_module "$VERSION")
    [[ $SANITIZED == no ]] || binary=$(sanitized_nginx "$folder")
    shift 2
    env \
        TEST_NGINX_BINARY="$binary" \
        TEST_NGINX_SANITIZED="${SANITIZED/no/}" \
        TEST_NGINX_LOAD_MODULES="$load" \
        TEST_NGINX_FAILING_MODULE="$failing" \
        TEST_NGINX_SERVROOT="$folder/servroot" \
        TEST_NGINX_BACKEND="$ROOT/target/release/backend" \
        TMPDIR="$folder/tmp" \
        PERL5LIB="$LIB/perl${PERL5LIB:+:$PERL5LIB}" \
        PROVE_TOTALS="$folder.totals" \
        "$@"
}

# One line of progress for each file that is done.
follow_log() {
    local line
    tail -n +1 -f -s 0.2 --pid="$1" "$2" |
        sed -un 's/^\[[0-9:]*\] *\([^ ]*\.t\) \.* *\(.*\)$/\1 \2/p' | while IFS= read -r line; do
        # prove writes the outcome of a failed file on the lines after it.
        [[ $line != *' ' ]] || line+=failed
        step "$3: ${line%%(*}"
    done || true
}

# A test that dies may leave processes without a parent. They still have the environment of their run. nginx overwrites its
# environment, but it has a pid file below our folder, and that folder in its command line.
stop_leftovers() {
    local file pid
    for file in /proc/[0-9]*/environ; do
        if grep -qzxF "PROVE_TOTALS=$1.totals" "$file" 2>/dev/null; then
            pid=${file//[!0-9]/}
            stop_pid "$pid"
        fi
    done
    while IFS= read -r file; do
        pid=$(cat "$file" 2>/dev/null || true)
        if [[ $pid =~ ^[0-9]+$ ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$1"; then
            stop_pid "$pid"
        fi
    done < <(find "$1" -name '*.pid' 2>/dev/null)
}

count_suite() {
    local key=$1 module=$2 passed failed=0 skipped files note helped
    if ! load_version "$key"; then
        # A version that was chosen by name must be available.
        [[ $CHOSEN == no ]] || failed=1
        [[ $module != "${MODULES[0]}" ]] || add_result "$(version_label "$key")" "" 0 "$failed" $((1 - failed)) "$REASON"
        return
    fi
    if ! can_run "$key" "$module"; then
        add_result "nginx $VERSION" "$module" 0 1 0 "does not build: $LOGS/build-$VERSION.log"
        return
    elif [[ -s $TEMP/$key-$module.totals ]]; then
        read -r passed failed skipped files < <(
            awk '{p += $1; f += $2; s += $3} END {print p, f, s, NR}' "$TEMP/$key-$module.totals"
        )
        note="$files files, $(cat "$TEMP/$key-$module.seconds") s"
        helped=$(xargs 2>/dev/null <"$TEMP/$key-$module.helped" || true)
        [[ -z $helped ]] || note+=", passed at the second try only: $helped"
        [[ -z $helped && $failed == 0 ]] || note+=", $(suite_log "$module")"
        add_result "nginx $VERSION" "$module" "$passed" "$failed" "$skipped" "$note"
    else
        failed=1
        add_result "nginx $VERSION" "$module" 0 1 0 "did not finish: $(suite_log "$module")"
    fi
    [[ $failed == 0 && -z ${helped:-} ]] || show_failures "$(suite_log "$module")"
}
