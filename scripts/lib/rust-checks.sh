# The part of scripts/test that needs no running nginx: formatting, lints and unit tests. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

check_rust() {
    local key found=no
    check_once "cargo fmt" cargo fmt --all --check
    for key in "${KEYS[@]}"; do
        if await_version "$key"; then
            found=yes
            break
        fi
    done
    # Lints of the nginx half need headers; the release profile shares the output of bindgen with the build.
    # The backend is one of the packages without nginx.
    if [[ $found == yes ]]; then
        check_once "cargo clippy" cargo_for "$VERSION" clippy --release -- -D warnings
    else
        add_result "cargo clippy" "" 0 0 1 "no nginx headers at hand"
    fi
    check_once "cargo clippy, core only" cargo clippy --workspace --all-targets --no-default-features -- -D warnings
    unit_tests "unit tests of the core" --no-default-features
    unit_tests "tests of backend and soak" -p backend -p soak
    # These need separate builds.
    [[ $QUICK == yes ]] || check_oldest_rust
    [[ $QUICK == yes ]] || check_fuzz_seeds
    [[ $QUICK == yes ]] || check_orders
}

# The models of memory that workers share, in loom; see docs/testing.md. They take about 5 seconds.
check_orders() {
    check_once "models of shared memory, format and lints" check_models
    unit_tests_of "models of shared memory" 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2 0/p' \
        env CARGO_TARGET_DIR="$ROOT/target/loom" cargo run --release --manifest-path "$ROOT/t/loom/Cargo.toml"
}

check_models() {
    cargo fmt --manifest-path "$ROOT/t/loom/Cargo.toml" --check &&
        CARGO_TARGET_DIR=$ROOT/target/loom cargo clippy --release --manifest-path "$ROOT/t/loom/Cargo.toml" -- -D warnings
}

# The oldest Rust that is promised compiles all of this, and its clippy, which has other opinions, has no objections.
check_oldest_rust() {
    local name folder
    name="Rust $(oldest_rust)"
    # As with Debian 13's own: then all other checks have shown it.
    [[ $(rustc --version) != "rustc $(oldest_rust)."* ]] || return 0
    if ! folder=$(oldest_rust_folder); then
        add_result "$name" "" 0 0 1 "not here (on Debian 13, or with rustup toolchain install $(oldest_rust))"
        return
    fi
    check_once "$name, core" env PATH="$folder:$PATH" CARGO_TARGET_DIR="$ROOT/target/oldest-rust" \
        cargo clippy --locked --workspace --all-targets --no-default-features -- -D warnings
    [[ $found == no ]] || PATH=$folder:$PATH check_once "$name" cargo_for "$VERSION-oldest" clippy --locked --release -- -D warnings
}

# Debian's packages, beside a newer Rust that comes first in PATH, or rustup's.
oldest_rust_folder() {
    local folder
    for folder in /usr/bin "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/"$(oldest_rust)"[.-]*/bin; do
        if [[ $("$folder/rustc" --version 2>/dev/null) == "rustc $(oldest_rust)."* && -x $folder/cargo-clippy ]]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

# check_once NAME COMMAND..: a check that passes or fails as a whole.
check_once() {
    local name=$1 log
    shift
    log=$LOGS/${name//[ ,]/-}.log
    step "$name"
    if quietly "$log" "$@"; then
        add_result "$name" "" 1 0 0
    else
        add_result "$name" "" 0 1 0 "$log"
    fi
}

unit_tests() {
    local name=$1
    shift
    unit_tests_of "$name" \
        's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' \
        cargo test --no-fail-fast "$@"
}

# unit_tests_of NAME SED COMMAND..: runs the command's tests. SED turns its output into lines with the numbers of passed, failed
# and skipped tests.
unit_tests_of() {
    local name=$1 lines=$2 log status=0 passed failed skipped
    shift 2
    log=$LOGS/${name// /-}.log
    step "$name"
    quietly "$log" "$@" || status=1
    read -r passed failed skipped < <(sed -n "$lines" "$log" |
        awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}')
    # With a compiler error no test has run, and this fails.
    ((status == 0 || failed > 0)) || failed=1
    add_result "$name" "" "$passed" "$failed" "$skipped" "$( ((failed)) && echo "$log")"
}
