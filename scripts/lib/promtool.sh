# Prometheus' own checker of metrics and alert rules, for t/status/metrics-files.t. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# provide_promtool: the promtool in PATH, or only the program from Debian's package: Debian 13 has one for it, but in older
# releases it is in the package prometheus, which would install a service and eleven other packages. Without it the test skips the parts that need it.
provide_promtool() {
    local promtool=$CACHE/promtool
    have promtool && return
    if [[ ! -x $promtool ]] && have apt-get && have dpkg-deb; then
        step "fetching promtool, out of Debian's package of it"
        fetch_promtool "$promtool" || step "there is no promtool: t/status/metrics-files.t skips the parts that need it"
    fi
    [[ ! -x $promtool ]] || export TEST_NGINX_PROMTOOL=$promtool
}

# In a folder that apt's download user can write to, if root runs this.
fetch_promtool() {
    local folder=$TEMP/promtool package=promtool
    [[ -n $(apt-cache madison promtool 2>/dev/null) ]] || package=prometheus
    mkdir -p "$folder"
    chmod 1777 "$folder"
    (cd "$folder" && quietly "$CACHE/log/promtool" apt-get -q download "$package") || return 1
    dpkg-deb --fsys-tarfile "$folder/$package"_*.deb | tar -x -C "$folder" ./usr/bin/promtool || return 1
    mv "$folder/usr/bin/promtool" "$1"
}
