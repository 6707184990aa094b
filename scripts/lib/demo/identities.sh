# Act 3 of scripts/demo: two locations with different client certificates, and one server. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

EACH=500

declare -gA WRONG

fewer_identities() { EACH=100; }

# Sets CERTIFICATES, a folder.
make_certificates() {
    local name key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    CERTIFICATES=$TEMP/certificates
    mkdir "$CERTIFICATES"
    for name in server alice bob; do
        quietly "$TEMP/openssl.log" openssl req -x509 "${key[@]}" -days 2 -subj "/CN=$name" \
            -keyout "$CERTIFICATES/$name.key" -out "$CERTIFICATES/$name.crt" || die "openssl makes no certificate"
    done
}

act_identities() {
    local kind
    act 3 "Two clients of one server" "Two locations send $EACH requests each to the same server, one with the certificate of Alice \
and one with Bob's; the server writes down who it takes each of them for."
    row "" "Alice's:" "" "Bob's:" ""
    row "" "as Alice" "as Bob" "as Alice" "as Bob"
    for kind in "$STOCK" "$OURS"; do
        start_nginx_with "$kind" "$KEPT"
        # One client, so that each uses the connection that the other one has left.
        load "$kind" -n $((2 * EACH)) -c 1 "http://127.0.0.1:$NGINX_PORT/alice" "http://127.0.0.1:$NGINX_PORT/bob"
        # A request is written down after its answer.
        wait_for 5 all_seen || die "the server has seen $(wc -l <"$TEMP/nginx/identities.log") of $((2 * EACH)) requests"
        WRONG[$kind]=$(($(seen alice bob) + $(seen bob alice)))
        row "$kind" "$(seen alice alice)" "$(seen alice bob)" "$(seen bob alice)" "$(seen bob bob)"
    done
    judge_identities
}

all_seen() { (($(wc -l <"$TEMP/nginx/identities.log") == 2 * EACH)); }

# seen WHO AS: how many of one's requests the server took for whose.
seen() { grep -cx "/$1 CN=$2" "$TEMP/nginx/identities.log" || true; }

judge_identities() {
    local all
    all=$(thousands $((2 * EACH)))
    verdict "The server took $(thousands "${WRONG[$STOCK]}") of $all requests for somebody else's with stock nginx, \
$(thousands "${WRONG[$OURS]}") with this module." \
        "${WRONG[$STOCK]} > 0" "stock nginx mixes up its clients" \
        "${WRONG[$OURS]} == 0" "this module does not"
}
