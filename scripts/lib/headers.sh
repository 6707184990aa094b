# Configured nginx trees: a module can only be built against headers that were configured as the binary was. Sourced,
# not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# configure_tree SOURCE TREE ARGUMENT..: leaves in TREE/objs what `configure` makes of the arguments. TREE is made of
# links, because configure writes into its working directory and the sources may not be ours to write to.
configure_tree() {
    local source=$1 tree=$2 stamp entry
    shift 2
    # A second run has nothing to do; other sources or arguments start from nothing.
    stamp=$(printf '%s\n' "$source" "$(headers_identity "$source")" "$@")
    [[ -f $tree/objs/ngx_auto_config.h && $(cat "$tree/stamp" 2>/dev/null) == "$stamp" ]] && return
    rm -rf "$tree"
    mkdir -p "$tree"
    for entry in "$source"/*; do
        [[ $(basename "$entry") == objs || $(basename "$entry") == Makefile ]] || ln -s "$entry" "$tree/"
    done
    local configure=./configure
    [[ -e $tree/configure ]] || configure=./auto/configure
    (cd "$tree" && quietly "$tree/configure.log" bash "$configure" "$@" --builddir="$tree/objs") || return 1
    printf '%s\n' "$stamp" >"$tree/stamp"
}

# nginx-sys looks at configure's output only, so an upgraded nginx-dev has to be noticed here.
headers_identity() { source_version "$1"; stat -c '%Y %s' "$1/src/core/ngx_connection.h" "$1/src/http/ngx_http_upstream.h"; }

# Sets CONFIGURE_ARGUMENTS to what Debian's nginx-dev says about its nginx. Compiler options and the name of the system
# are left out: they do not change the layout, and newer suites compute them with tools that need not be here.
read_debian_arguments() {
    local arguments
    mapfile -d '' -t arguments < <(
        dpkg-architecture() { :; }
        dpkg-buildflags() { :; }
        # shellcheck disable=SC1091
        . "$1/conf_flags"
        printf '%s\0' "${NGX_CONF_FLAGS[@]}"
    )
    CONFIGURE_ARGUMENTS=()
    local argument
    for argument in "${arguments[@]}"; do
        case $argument in
            --override-* | --with-cc-opt=* | --with-ld-opt=*) ;;
            *) CONFIGURE_ARGUMENTS+=("$argument") ;;
        esac
    done
}

# Sets CONFIGURE_ARGUMENTS to the binary's own arguments, without other people's modules (their sources are not here)
# and without dynamic modules (they add nothing to the binary's structures, but ask for libraries of their own).
read_own_arguments() {
    read_nginx_arguments "$1"
    CONFIGURE_ARGUMENTS=()
    local argument
    for argument in "${NGINX_ARGUMENTS[@]}"; do
        case $argument in
            --add-module=* | --add-dynamic-module=* | --with-*=dynamic | --builddir=*) ;;
            *) CONFIGURE_ARGUMENTS+=("$argument") ;;
        esac
    done
}

# Was this tree configured with exactly the binary's arguments, as after a build at home?
tree_matches_binary() {
    local arguments
    arguments=$("$2" -V 2>&1 | sed -n 's/^configure arguments: //p' | tr -d "\"'\\\\ ")
    [[ -f $1/objs/Makefile ]] || return 1
    [[ $(sed -n 's/^#define NGX_CONFIGURE "\(.*\)"$/\1/p' "$1/objs/ngx_auto_config.h" | tr -d "\"'\\\\ ") == "$arguments" ]]
}

# Notes nginx-dev as a need where apt can bring the version that fits the binary.
note_headers_need() {
    local package version
    [[ -z ${NGINX_SOURCE_DIR:-}${NGINX_BUILD_DIR:-} ]] || return 0
    read -r package version <<<"$(nginx_package "$1")" || true
    if [[ -n $package ]] && { ! has_package_lists || nginx_dev_available "$version"; }; then
        need "nginx-dev $version, the headers of the installed nginx" "nginx-dev=$version" nginx_dev_matches "$version"
    fi
}

# An installed nginx with its headers, where root can have them from Debian; elsewhere what is here must do.
note_installed_nginx_need() {
    local nginx
    if nginx=$(find_nginx); then
        note_headers_need "$nginx"
    elif is_debian && is_root; then
        note_debian_nginx_need
    fi
}

note_debian_nginx_need() { need "nginx with its headers" "nginx nginx-dev" false; }

# What scripts/build and the backend need, for scripts that use both.
note_build_needs() {
    note_compiler_needs
    note_backend_needs
    note_installed_nginx_need
    # Without an nginx, one is compiled.
    find_nginx >/dev/null || { is_debian && is_root; } || note_nginx_needs
}

# Sets SOURCE_DIR and BUILD_DIR for a binary, or stops with one sentence. `$2` is a folder for a configured tree.
find_headers() {
    local nginx=$1 tree=$2 version
    version=$(nginx_version "$nginx")
    if [[ -n ${NGINX_SOURCE_DIR:-}${NGINX_BUILD_DIR:-} ]]; then
        headers_from_variables "$nginx" "$version" "$tree"
    else
        headers_from_package "$nginx" "$version" "$tree"
    fi
}

headers_from_variables() {
    local nginx=$1 version=$2 tree=$3
    SOURCE_DIR=$(readlink -f "${NGINX_SOURCE_DIR:-$(dirname "$NGINX_BUILD_DIR")}" || true)
    [[ -f $SOURCE_DIR/src/core/nginx.h ]] ||
        die "NGINX_SOURCE_DIR=${NGINX_SOURCE_DIR:-} is not an nginx source tree: it has no src/core/nginx.h"
    [[ $(source_version "$SOURCE_DIR") == "$version" ]] ||
        die "$nginx is nginx $version, but $SOURCE_DIR is the source of nginx $(source_version "$SOURCE_DIR"): set NGINX_SOURCE_DIR to the source of nginx $version"
    if [[ -n ${NGINX_BUILD_DIR:-} ]]; then
        BUILD_DIR=$(readlink -f "$NGINX_BUILD_DIR" || true)
        [[ -f $BUILD_DIR/ngx_auto_config.h ]] ||
            die "NGINX_BUILD_DIR=$NGINX_BUILD_DIR is not the output folder of nginx's configure: it has no ngx_auto_config.h"
    elif tree_matches_binary "$SOURCE_DIR" "$nginx"; then
        BUILD_DIR=$SOURCE_DIR/objs
    else
        step "configuring the source of nginx $version as $nginx was (nginx -V)"
        read_own_arguments "$nginx"
        configure_tree "$SOURCE_DIR" "$tree" "${CONFIGURE_ARGUMENTS[@]}" ||
            die "the source of nginx $version cannot be configured as $nginx was: the lines above name what it lacks (on Debian mostly libssl-dev, libpcre2-dev or zlib1g-dev)"
        SOURCE_DIR=$tree BUILD_DIR=$tree/objs
    fi
}

headers_from_package() {
    local nginx=$1 version=$2 tree=$3 package package_version
    read -r package package_version <<<"$(nginx_package "$nginx")" || true
    [[ -n $package ]] ||
        die "$nginx belongs to no Debian package: set NGINX_SOURCE_DIR to the unpacked source of nginx $version"
    nginx_dev_matches "$package_version" ||
        die "$nginx is package $package $package_version, and the headers of that build are not here: $(headers_advice "$version" "$package_version")"
    step "taking the headers of nginx-dev $package_version"
    read_debian_arguments /usr/share/nginx/src
    configure_tree /usr/share/nginx/src "$tree" "${CONFIGURE_ARGUMENTS[@]}" ||
        die "the headers of nginx-dev $package_version cannot be configured: see the lines above"
    SOURCE_DIR=$tree BUILD_DIR=$tree/objs
}

nginx_dev_matches() { [[ $(dpkg-query -W -f '${db:Status-Status} ${Version}' nginx-dev 2>/dev/null) == "installed $1" ]]; }

# The nginx-dev of exactly this version, when the machine's archives have it.
nginx_dev_available() { apt-cache madison nginx-dev 2>/dev/null | cut -d'|' -f2 | tr -d ' ' | grep -qxF -e "$1"; }

headers_advice() {
    local version=$1 package_version=$2
    if nginx_dev_available "$package_version"; then
        echo "as root: apt-get install nginx-dev=$package_version"
    elif [[ -f /usr/share/nginx/src/conf_flags ]] || apt-cache show nginx-dev 2>/dev/null | grep -q "^Version: $version-"; then
        echo "bring both to one version, as root: apt-get install nginx nginx-dev"
    else
        echo "set NGINX_SOURCE_DIR to the unpacked source of nginx $version"
    fi
}
