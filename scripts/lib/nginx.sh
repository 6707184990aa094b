# Questions to an nginx binary and to an nginx source tree. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# The nginx that is installed on this machine, if any: a package's, or one that was compiled and put in a usual place.
find_nginx() {
    local candidate
    for candidate in "$(command -v nginx || true)" /usr/sbin/nginx /usr/local/sbin/nginx /usr/local/nginx/sbin/nginx \
        /opt/nginx/sbin/nginx; do
        if [[ -x $candidate ]]; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

nginx_version() { "$1" -v 2>&1 | sed -n 's|^nginx version: [^/]*/\([0-9.]*\).*|\1|p'; }

# Sets NGINX_ARGUMENTS to the arguments that the binary was configured with. xargs undoes the quotes of `nginx -V`
# without letting a shell look at the text.
read_nginx_arguments() {
    mapfile -d '' -t NGINX_ARGUMENTS < <("$1" -V 2>&1 | sed -n 's/^configure arguments: //p' | xargs -r printf '%s\0')
}

# nginx_argument BINARY NAME DEFAULT: the value of one configure argument; the last one counts, as in configure.
nginx_argument() {
    local name=$2 value=$3 argument
    read_nginx_arguments "$1"
    for argument in "${NGINX_ARGUMENTS[@]}"; do
        [[ $argument != "$name="* ]] || value=${argument#*=}
    done
    echo "$value"
}

nginx_has_argument() {
    read_nginx_arguments "$1"
    printf '%s\n' "${NGINX_ARGUMENTS[@]}" | grep -qxF -e "$2"
}

# The folder that `load_module modules/..` means: relative names start at the prefix.
nginx_prefix() { nginx_argument "$1" --prefix /usr/local/nginx; }

nginx_modules_path() { nginx_argument "$1" --modules-path "$(nginx_prefix "$1")/modules"; }

# The Debian package a binary belongs to, as "NAME VERSION"; nothing when it belongs to none.
nginx_package() { package_of "$(readlink -f "$1")"; }

# The same of any file.
package_of() {
    have dpkg-query || return 0
    local package
    # With a merged /usr the package may have the file under its old name.
    package=$(dpkg-query -S "$1" "${1#/usr}" 2>/dev/null | sed -n '1s/[:,].*//p')
    [[ -z $package ]] || echo "$package $(dpkg-query -W -f '${Version}' "$package")"
}

# The version of an nginx source tree.
source_version() { sed -n 's/^#define NGINX_VERSION *"\([0-9.]*\)".*/\1/p' "$1/src/core/nginx.h" 2>/dev/null; }

# version_at_least A B: is version A the same as B or newer?
version_at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }

# The lines that keep an nginx's temporary files in one folder, so that it needs none of the system's. A protocol that
# the binary lacks has no such directive.
temp_paths() {
    local protocol
    say "client_body_temp_path $2/client_body;"
    for protocol in proxy fastcgi uwsgi scgi; do
        nginx_has_argument "$1" "--without-http_${protocol}_module" || say "${protocol}_temp_path $2/$protocol;"
    done
}
