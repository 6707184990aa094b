# The check of the Debian package: it is built and goes through its life in a chroot of this machine's own release, with a
# running nginx in it. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_package_check_needs() {
    need unshare util-linux have unshare
    need debhelper debhelper have dh
    need dpkg-buildpackage dpkg-dev have dpkg-buildpackage
    need lintian lintian have lintian
    need "gpg, with its agent" gnupg have gpg-agent
}

# Says why the check cannot be made here, if it cannot.
package_check_obstacle() {
    if ! is_debian || ! is_root; then
        say "only as root on Debian"
    elif ! NGINX=$(find_nginx) || ! is_packaged_for_debian; then
        say "the nginx of this machine is not Debian's package"
    elif ! debian_archive >/dev/null; then
        say "this machine's apt has no archive of Debian"
    elif ! unshare --fork --pid --net --mount --ipc true 2>/dev/null; then
        say "no namespaces here"
    fi
}

check_package() { check_unless "$(package_check_obstacle)" "the Debian package" package_lives; }

# check_unless WHY NAME COMMAND: skips the check if there is a reason to.
check_unless() {
    if [[ -n $1 ]]; then
        step "skipped: $2: $1"
        add_result "$2" "" 0 0 1 "$1"
    else
        check_once "$2" "$3"
    fi
}

package_lives() {
    local root=$TEMP/chroot
    "$ROOT/scripts/package" --output "$TEMP/old" &&
        "$ROOT/scripts/package" --output "$TEMP/new" --revision 2 &&
        lint "$TEMP"/old/*.deb &&
        provide_chroot "$CACHE/chroot-nginx" nginx procps &&
        cp -a "$CACHE/chroot-nginx" "$root" &&
        bring_scripts "$root" &&
        cp "$TEMP"/old/*.deb "$root/check/old.deb" &&
        cp "$TEMP"/new/*.deb "$root/check/new.deb" || return 1
    # Its services may be started there: it sees no process and no network but its own.
    printf '#!/bin/sh\nexit 0\n' >"$root/usr/sbin/policy-rc.d"
    live_in "$root" life.sh
}

bring_scripts() { mkdir -p "$1/check/scripts" && cp -r "$LIB" "$1/check/scripts/lib" && cp "$ROOT/scripts/build" "$1/check/scripts/"; }

# live_in CHROOT SCRIPT: runs a script of this folder there, and stops all that it leaves.
live_in() {
    timeout --kill-after=10 300 unshare --fork --kill-child --pid --net --mount --ipc --uts \
        chroot "$1" "/check/scripts/lib/package/$2"
}

# provide_chroot FOLDER PACKAGE..: a minimal system of this machine's release, with these packages.
provide_chroot() {
    local folder=$1 base=$CACHE/chroot
    shift
    # Two runs at once must not unpack into the same folder.
    exec 9>"$CACHE/lock-chroot"
    flock 9
    [[ -d $base ]] || fetch_base "$base" || return 1
    if [[ ! -d $folder ]]; then
        rm -rf "$folder.new"
        cp -a "$base" "$folder.new" &&
            chroot "$folder.new" apt-get update &&
            DEBIAN_FRONTEND=noninteractive chroot "$folder.new" apt-get install -q -y --no-install-recommends "$@" &&
            mv "$folder.new" "$folder" || return 1
    fi
    exec 9>&-
}

fetch_base() {
    local archive codename
    archive=$(debian_archive) || die "this machine's apt has no archive of Debian"
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    rm -rf "$1.new"
    timeout 900 debootstrap --variant=minbase "$codename" "$1.new" "$archive" || return 1
    # Nothing is started until somebody is there to look after it.
    printf '#!/bin/sh\nexit 101\n' >"$1.new/usr/sbin/policy-rc.d"
    chmod 755 "$1.new/usr/sbin/policy-rc.d"
    mv "$1.new" "$1"
}
