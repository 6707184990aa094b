# Servers of HTTP/2 that others have written, for t/streams/real.t and t/streams/grpc.t, which skip those that are missing. Sourced,
# not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# Debian's packages of them, as far as this release has them. --quick takes those that are there.
note_http2_server_needs() {
    [[ $QUICK == no ]] || return 0
    note_http2_server nghttp2-server have nghttpd
    note_http2_server haproxy have haproxy
    note_http2_server python3-grpcio has_grpcio
    note_http2_server "golang-go golang-golang-x-net-dev" has_go
}

# note_http2_server "PACKAGE.." PROBE..
note_http2_server() {
    local packages=$1 package
    shift
    for package in $packages; do
        [[ -n $(apt-cache madison "$package") ]] || return 0
    done
    need "a server of HTTP/2" "$packages" "$@"
}

# Debian's package is for Debian's Python, which need not be the first one in PATH.
has_grpcio() { python3 -c 'import grpc' || /usr/bin/python3 -c 'import grpc'; }

has_go() { have go && [[ -d /usr/share/gocode/src/golang.org/x/net/http2 ]]; }
