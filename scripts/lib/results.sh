# The results of scripts/test, and the table at its end. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# One line each: WHAT|MODULE|PASSED|FAILED|SKIPPED|NOTE
RESULTS=()

add_result() { RESULTS+=("$1|$2|$3|$4|$5|${6:-}"); }

show_failures() {
    say
    say "failures in ${1#"$ROOT/"}:"
    if grep -q '^Test Summary Report' "$1"; then
        grep -A 4 '^#  *Failed test' "$1" | head -n 60
        sed -n '/^Test Summary Report/,$p' "$1"
    else
        tail -n 20 "$1"
    fi | sed 's/^/    /'
}

print_results() {
    compgen -G "$TEMP/*.totals" >/dev/null || add_result "t/*/*.t" "" 0 1 0 "did not run on any nginx"
    print_table
}

print_table() {
    local row what module passed failed skipped note p=0 f=0 s=0
    say
    printf '%-36s %-6s %7s %7s %7s  %s\n' "" module passed failed skipped ""
    for row in "${RESULTS[@]}"; do
        IFS='|' read -r what module passed failed skipped note <<<"$row"
        printf '%-36s %-6s %7d %7d %7d  %s\n' "$what" "$module" "$passed" "$failed" "$skipped" "${note//"$ROOT/"/}"
        p=$((p + passed)) f=$((f + failed)) s=$((s + skipped))
    done
    say
    say "$p passed, $f failed, $s skipped"
    ((f == 0))
}
