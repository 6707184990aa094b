# How scripts/demo speaks: acts, rows, progress and verdicts, in 80 columns. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

NOT_SHOWN=0

# Colours are for a terminal, and for readers who want them (https://no-color.org).
choose_colours() {
    BOLD='' GREEN='' RED='' PLAIN=''
    if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
        BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
    fi
}

# act NUMBER TITLE SENTENCE
act() {
    say
    say "$BOLD$1. $2$PLAIN"
    paragraph "" "$3"
    say
}

# paragraph COLOUR TEXT
paragraph() { printf '%s%s%s\n' "$1" "$(fold -s -w 76 <<<"$2" | sed 's/^/   /; s/ *$//')" "$PLAIN"; }

# row NAME VALUE..: four at most.
row() {
    local line value
    printf -v line '   %-25s' "$1"
    shift
    for value; do printf -v line '%s %12s' "$line" "$value"; done
    say "${line%"${line##*[! ]}"}"
}

# follow NAME: on a terminal, shows how far h2load is, where the row of this name is going to be.
follow() {
    local percent
    if [[ ! -t 1 ]]; then
        cat >/dev/null
        return
    fi
    printf '   %-25s ...' "$1"
    sed -un 's/^progress: \([0-9]*%\) done.*/\1/p' | while read -r percent; do printf '\r   %-25s %4s' "$1" "$percent"; done
    printf '\r'
}

# verdict SENTENCE [CONDITION PROMISE]..: the sentence, and each promise whose arithmetic condition does not hold.
verdict() {
    local sentence=$1 broken=''
    shift
    while (($#)); do
        (($1)) || broken+="${broken:+, }$2"
        shift 2
    done
    say
    if [[ -z $broken ]]; then
        paragraph "$GREEN" "=> $sentence"
    else
        NOT_SHOWN=$((NOT_SHOWN + 1))
        paragraph "$RED" "=> Not shown: $broken. $sentence"
    fi
}

# thousands NUMBER: with commas.
thousands() { sed ':again; s/\B[0-9]\{3\}\>/,&/; t again' <<<"$1"; }

# ratio A B
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.*f", (b && a / b < 10) + (b && a / b < 1), b ? a / b : 0}'; }
