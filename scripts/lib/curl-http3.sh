# A curl that speaks HTTP/3, for t/protocols/http3-client.t. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# provide_curl_http3: the curl in PATH, or Debian 13's with only its libraries. Without one the test is skipped.
provide_curl_http3() {
    local folder=$CACHE/curl-http3
    speaks_http3 curl && return
    if [[ ! -x $folder/curl ]] && is_root && have debootstrap; then
        step "fetching a curl with HTTP/3, out of Debian 13"
        fetch_curl_http3 "$folder" || step "there is no curl with HTTP/3: t/protocols/http3-client.t is skipped"
    fi
    ! speaks_http3 "$folder/curl" || export TEST_NGINX_CURL_HTTP3=$folder/curl
}

speaks_http3() { "$1" --version 2>/dev/null | grep -q '^Features:.*HTTP3'; }

fetch_curl_http3() {
    local folder=$1 tree=$TEMP/curl-http3 archive deb loader libraries library
    archive=$(debian_archive) || return 1
    quietly "$CACHE/log/curl-http3" timeout 900 \
        debootstrap --foreign --variant=minbase --include=curl trixie "$tree" "$archive" || return 1
    for deb in "$tree"/var/cache/apt/archives/*.deb; do
        dpkg-deb -x "$deb" "$tree" || return 1
    done
    loader=$(compgen -G "$tree/lib64/ld-linux*" || compgen -G "$tree/lib/ld-linux*") || return 1
    libraries=$(dirname "$(find "$tree/usr/lib" -name 'libcurl.so.4' | head -n 1)")
    rm -rf "$folder.new"
    mkdir -p "$folder.new/lib"
    "$loader" --library-path "$libraries" --list "$tree/usr/bin/curl" | sed -n 's/.* => \(.*\) (0x.*/\1/p' |
        while IFS= read -r library; do cp -L "$library" "$folder.new/lib/"; done
    cp -L "$loader" "$folder.new/loader"
    cp "$tree/usr/bin/curl" "$folder.new/curl.bin"
    # shellcheck disable=SC2028 # The file is a script.
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$folder/loader" "$folder/lib" "$folder/curl.bin" >"$folder.new/curl"
    chmod 755 "$folder.new/curl"
    rm -rf "$tree" "$folder"
    mv "$folder.new" "$folder"
}
