# What the benchmarks that measure time share: the application, processors, rounds of wrk, HAProxy, and the numbers' spread.
# Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# start_app TEMPLATE: sets APP_PORT.
start_app() {
    local folder=$TEMP/app
    mkdir -p "$folder"
    APP_PORT=$(free_port)
    fill_in "$ROOT/nginx-conf/$1.conf" FOLDER "$folder" TEMP_PATHS "$(temp_paths "$NGINX" "$folder")" \
        AFFINITY "$(affinity 10)" PORT "$APP_PORT" >"$folder/nginx.conf"
    start_nginx "$folder"
}

# ---- processors ----

# The measured worker has the first processor for itself; the application and wrk share the second. Left to the kernel,
# the three processes meet in different ways from round to round, and that is all one would measure.
affinity() { (($(nproc) < 2)) || echo "worker_cpu_affinity $1;"; }

pinned() { on_processor "${CLIENT_PROCESSOR:-1}" "$@"; }

# on_processor NUMBER COMMAND..
on_processor() {
    if (($(nproc) < 2)); then
        "${@:2}"
    else
        taskset -c "$@"
    fi
}

# ---- HAProxy ----

note_haproxy_need() {
    # Debian starts no service here, see forbid_service_starts.
    ! is_debian || ! is_root || [[ -z $(apt-cache madison haproxy 2>/dev/null) ]] || need "haproxy" haproxy have haproxy
}

haproxy_version() { haproxy -v | sed -n '1s/^HAProxy version \([^ ]*\).*/\1/p'; }

# start_haproxy FOLDER: as one process, with FOLDER/haproxy.cfg; sets PID.
start_haproxy() {
    # In the background, a function would be a process of its own.
    local command=(haproxy -db -f "$1/haproxy.cfg")
    (($(nproc) < 2)) || command=(taskset -c 0 "${command[@]}")
    "${command[@]}" >"$1/error.log" 2>&1 </dev/null &
    PID=$!
    remember_pid "$PID"
}

# ---- a round ----

# wrk_round PORT SECONDS [PATH]: prints the requests per second, and how many there were; a failed request makes the figures
# worthless.
wrk_round() {
    local out i
    # On a busy machine it can happen that nothing comes through.
    for ((i = 0; i < 5; i++)); do
        out=$(pinned wrk -t 1 -c "$CLIENTS" -d "$2" "http://127.0.0.1:$1${3:-/}" 2>&1)
        if grep -qE 'Non-2xx|Socket errors' <<<"$out"; then
            die "requests failed: $out"
        fi
        awk '/ requests in / {requests = $1} $1 == "Requests/sec:" && requests {print $2, requests; found = 1} END {exit !found}' \
            <<<"$out" && return
    done
    die "no answer: $out"
}

# processor_time PID: of a process with one thread and of the kernel for it, in nanoseconds. Not every kernel counts them.
processor_time() {
    local time
    time=$(cut -d ' ' -f 1 "/proc/$1/schedstat" 2>/dev/null) || true
    if ((${time:-0} == 0)); then
        time=$(awk -v second="$(getconf CLK_TCK)" '{printf "%.0f", ($14 + $15) / second * 1e9}' "/proc/$1/stat")
    fi
    say "$time"
}

# per_request NANOSECONDS REQUESTS: in microseconds.
per_request() { awk -v time="$1" -v requests="$2" 'BEGIN {printf "%.3f\n", time / requests / 1000}'; }

# ---- numbers on standard input ----

median() { sort -g | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2}'; }

# spread NAME FORMAT: the line of a table.
spread() {
    local numbers
    numbers=$(sort -g)
    # shellcheck disable=SC2059 # The format is one of ours.
    printf "%-34s $2 $2 $2\n" "$1" "$(head -n 1 <<<"$numbers")" "$(median <<<"$numbers")" "$(tail -n 1 <<<"$numbers")"
}
