# The fuzzers of t/fuzz: their seeds, with the other checks, and `scripts/test --fuzz`. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

FUZZ=$ROOT/t/fuzz
FUZZ_BUILD=$ROOT/target/fuzz
FUZZ_CORPUS=$ROOT/target/fuzz-corpus
FUZZ_FINDINGS=$ROOT/target/fuzz-findings

# Runs known inputs without special compiler options, so any toolchain works and anyone can repeat it.
check_fuzz_seeds() {
    check_once "fuzz targets, format and lints" check_fuzz_targets
    unit_tests_of "seeds of the fuzz targets" 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2 0/p' \
        env CARGO_TARGET_DIR="$FUZZ_BUILD" cargo run --manifest-path "$FUZZ/Cargo.toml"
}

check_fuzz_targets() {
    cargo fmt --manifest-path "$FUZZ/Cargo.toml" --check &&
        CARGO_TARGET_DIR=$FUZZ_BUILD cargo clippy --manifest-path "$FUZZ/Cargo.toml" -- -D warnings
}

note_fuzz_needs() {
    note_compiler_needs
    need "a C++ compiler" g++ have c++
    need "pgrep" procps have pgrep
}

# Runs each target for its share of the time, as many at once as there are cores.
fuzz() {
    local target targets host
    host=$(rustc -vV | sed -n 's/^host: //p')
    step "building the fuzzers"
    quietly "$LOGS/build-fuzz.log" build_fuzzers "$host" || die "the fuzzers do not build: see the lines above"
    FUZZER=$FUZZ_BUILD/$host/release/fuzz
    mapfile -t targets < <(find "$FUZZ/seeds" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort)
    FUZZ_TIME=$((FUZZ_SECONDS * $(nproc) / ${#targets[@]}))
    ((FUZZ_TIME > 0)) || FUZZ_TIME=1
    step "${#targets[@]} targets, $FUZZ_TIME s each, $(nproc) at a time"
    run_fuzzers "${targets[@]}" &
    FUZZERS=$!
    at_exit '! is_running "$FUZZERS" || stop_tree "$FUZZERS"'
    wait "$FUZZERS" || true
    for target in "${targets[@]}"; do
        count_fuzzer "$target"
    done
}

# The coverage that libFuzzer needs, with the options of cargo-fuzz. AddressSanitizer is for the crates that the core uses: the
# core itself has no unsafe code. Only nightly toolchains accept this option without RUSTC_BOOTSTRAP.
build_fuzzers() {
    local flags=(-Cpasses=sancov-module -Ccodegen-units=1 -Zsanitizer=address) option
    for option in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=("-Cllvm-args=-sanitizer-coverage-$option")
    done
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$FUZZ_BUILD \
        cargo build --release --manifest-path "$FUZZ/Cargo.toml" --features libfuzzer --target "$1"
}

run_fuzzers() {
    local target
    for target; do
        while (($(jobs -rp | wc -l) >= $(nproc))); do
            wait -n || true
        done
        run_fuzzer "$target" &
    done
    wait
}

# Its corpus is kept for the next run. The names of its findings begin with crash, timeout, oom or leak.
run_fuzzer() {
    local target=$1 status=0
    mkdir -p "$FUZZ_CORPUS/$target" "$FUZZ_FINDINGS/$target"
    FUZZ_TARGET=$target "$FUZZER" -max_total_time="$FUZZ_TIME" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$FUZZ_FINDINGS/$target/" "$FUZZ_CORPUS/$target" "$FUZZ/seeds/$target" \
        >"$(fuzz_log "$target")" 2>&1 </dev/null || status=$?
    echo "$status" >"$TEMP/$target.status"
    step "$target: $(fuzz_figures "$target")"
}

fuzz_log() { echo "$LOGS/fuzz-$1.log"; }

fuzz_figures() {
    local log runs edges
    log=$(fuzz_log "$1")
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -ao ' cov: [0-9]*' "$log" | tail -n 1)
    echo "${runs:-0} executions, ${edges##* } edges"
}

count_fuzzer() {
    local log found
    log=$(fuzz_log "$1")
    if [[ $(cat "$TEMP/$1.status" 2>/dev/null) == 0 ]]; then
        add_result "fuzz $1" "" 1 0 0 "$(fuzz_figures "$1")"
        return
    fi
    add_result "fuzz $1" "" 0 1 0 "$(fuzz_figures "$1"), $log"
    found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    say
    say "found by $1:"
    grep -a -m 1 -A 4 'panicked at' "$log" | sed 's/^/    /'
    if [[ -n $found ]]; then
        say "to see it again: cargo run --manifest-path t/fuzz/Cargo.toml -- $1 ${found#"$ROOT/"}"
    else
        tail -n 10 "$log" | sed 's/^/    /'
    fi
}
