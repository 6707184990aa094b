# What a script needs from the machine: noted one by one, then installed together or listed. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

# need "SENTENCE" "PACKAGE.." PROBE..: notes what is missing when the probe fails. An empty package list means that no
# package of the distribution can help.
need() {
    local sentence=$1 packages=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    MISSING+=("$sentence")
    # shellcheck disable=SC2206 # The names are words on purpose.
    MISSING_PACKAGES+=($packages)
    [[ -n $packages ]] || INSTALLABLE=no
}

missing_packages() { each_once "${MISSING_PACKAGES[@]}"; }

# Several parts of a script may need the same.
each_once() { printf '%s\n' "$@" | awk '!seen[$0]++'; }

collect_needs() {
    MISSING=() MISSING_PACKAGES=() INSTALLABLE=yes
    "$@"
}

# fulfil_needs FUNCTION..: the function notes its needs by `need`; afterwards all of them are there, or the script has
# stopped with one list.
fulfil_needs() {
    read_package_lists
    local round
    # All are noted at once; a second round is for what the first one could not foresee.
    for round in 1 2 3; do
        collect_needs "$@"
        ((${#MISSING[@]})) || return 0
        if [[ $INSTALLABLE == no ]] || ! is_debian || ! is_root; then
            break
        fi
        # shellcheck disable=SC2046 # Names of packages.
        apt_install $(missing_packages) || break
    done
    printf 'error: this is missing:\n' >&2
    each_once "${MISSING[@]}" | sed 's/^/  - /' >&2
    if ((${#MISSING_PACKAGES[@]})); then
        printf 'on Debian, as root: apt-get install %s\n' "$(missing_packages | xargs)" >&2
    fi
    exit 1
}

is_debian() {
    have apt-get && have dpkg-query && grep -qE '^(ID|ID_LIKE)=.*debian' /etc/os-release 2>/dev/null
}

debian_release() { sed -n 's/^VERSION_ID="\{0,1\}\([0-9.]*\).*/\1/p' /etc/os-release 2>/dev/null; }

package_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

has_package_lists() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

# in_archive PACKAGE: whether this machine's archives have it. Without lists nobody knows, and it is taken to be there.
in_archive() { is_debian && { ! has_package_lists || [[ -n $(apt-cache madison "$1" 2>/dev/null) ]]; }; }

# The version of a package that apt would install.
candidate_version() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([^(].*\)$/\1/p'; }

# A fresh image has no lists of packages, and some needs depend on what the archive has.
read_package_lists() {
    is_debian && is_root || return 0
    ! has_package_lists || return 0
    step "reading the lists of Debian packages"
    quietly "$CACHE/log/apt-update" apt_get update || true
}

apt_install() {
    step "installing Debian packages: $*"
    forbid_service_starts
    # The machine's lists may be older than the archive, so the second try reads them anew.
    apt_get install "$@" >/dev/null 2>&1 && return
    quietly "$CACHE/log/apt-update" apt_get update || return 1
    quietly "$CACHE/log/apt-install" apt_get install "$@"
}

apt_get() {
    local verb=$1
    shift
    local options=(-o DPkg::Lock::Timeout=600 -q)
    [[ $verb != install ]] || options+=(-y --no-install-recommends)
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$verb" "$@"
}

# Debian starts a service when its package is installed. Nobody asked these scripts to open port 80, so that is refused
# for the time of this script, by Debian's own switch, unless the machine has a policy already.
forbid_service_starts() {
    [[ -e /usr/sbin/policy-rc.d ]] && return
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    at_exit 'rm -f /usr/sbin/policy-rc.d'
}

# The address of Debian's archive as this machine's own apt configuration has it.
debian_archive() {
    local codename
    is_debian || return 1
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^Debian $codename main //p" | grep -m 1 .
}
