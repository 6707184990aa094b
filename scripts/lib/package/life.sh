#!/usr/bin/env bash
# The life of the Debian package on a machine with a running nginx: install, upgrade, go back, remove, purge. Run by
# check.sh in a chroot with processes and a network of its own; the packages are in /check.
#
# A client asks all the time; in the end none of its requests may have failed.

set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. /check/scripts/lib/common.sh
use processes package/site

PACKAGE=libnginx-mod-http-upstream-keepalive-rs
LINK=/etc/nginx/modules-enabled/50-mod-http-upstream-keepalive-rs.conf
export DEBIAN_FRONTEND=noninteractive

main() {
    begin_life
    mkdir -p /run/lock
    invoke-rc.d nginx start
    ok "nginx answers" answers
    ask_all_the_time &
    at_exit "stop_pid $!"

    install_beside_running_nginx
    build_beside_package
    use_own_directive
    upgrade_and_go_back
    respect_the_administrator
    remove_too_early
    remove_and_purge
    refuse_other_abi

    touch /check/stop
    wait
    say "$(wc -l </check/good) requests were answered meanwhile"
    ok "no request failed" test ! -s /check/bad
    ok "many were sent" test "$(wc -l </check/good)" -ge 100
    ok "the error log has no alert" eval '! grep -E "\[(alert|crit|emerg)\]" /var/log/nginx/error.log'
    invoke-rc.d nginx stop
}

install_beside_running_nginx() {
    step "install"
    ok "the module is not there" eval '! in_use'
    apt_get install /check/old.deb
    ok "it is enabled" test -e "$LINK"
    ok "nginx -t passes" nginx -t
    ok "nginx was told to reload, and uses it" wait_for 10 in_use
    ok "nginx answers" answers
}

# Who builds the module as well neither loses the package's file nor loads both.
build_beside_package() {
    step "scripts/build beside the package"
    ok "it refuses to overwrite the file" eval '! /check/scripts/build >/check/said 2>&1'
    ok "and says whose it is" grep "belongs to the package $PACKAGE" /check/said
    ok "the file is as it was" dpkg --verify "$PACKAGE"
    sed -i "1i load_module modules/$MODULE.so;" /etc/nginx/nginx.conf
    # shellcheck disable=SC2016 # It is eval that looks at it.
    ok "nginx names a second line by the file's name" eval 'grep "\"$MODULE\" is already loaded" <<<"$(nginx -t 2>&1)"'
    sed -i 1d /etc/nginx/nginx.conf
    ok "nginx -t passes" nginx -t
}

use_own_directive() {
    step "use"
    write_status
    invoke-rc.d nginx reload
    ok "the status page has seen connections that were used again" wait_for 10 reuse_seen
}

upgrade_and_go_back() {
    step "upgrade"
    apt_get install /check/new.deb | tee /check/said
    ok "what is installed is the new version" test "$(installed_version)" = "$(dpkg-deb -f /check/new.deb Version)"
    ok "the package says that nginx goes on with the old one" grep -q "goes on with version" /check/said
    ok "and so it does" grep -q "$FILE (deleted)" "/proc/$(cat /run/nginx.pid)/maps"
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers
    service nginx upgrade
    ok "after a binary upgrade the new file is in use" wait_for 10 new_file_in_use
    ok "nginx answers" answers

    step "rollback"
    apt_get install --allow-downgrades /check/old.deb
    ok "what is installed is the old version" test "$(installed_version)" = "$(dpkg-deb -f /check/old.deb Version)"
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers
    service nginx upgrade
    ok "after a binary upgrade its file is in use" wait_for 10 new_file_in_use
    ok "nginx answers" answers
}

# Who takes the link away wants the module to stay out, whatever is installed later.
respect_the_administrator() {
    step "disabled by hand"
    rm "$LINK" /etc/nginx/conf.d/status.conf
    apt_get install /check/new.deb
    ok "an upgrade does not enable it again" test ! -e "$LINK"
    ok "nginx -t passes" nginx -t
    ok "it is not in use" wait_for 10 eval '! in_use'
    ln -s /usr/share/nginx/modules-available/mod-http-upstream-keepalive-rs.conf "$LINK"
    invoke-rc.d nginx reload
    ok "until it is enabled" wait_for 10 in_use
    ok "nginx answers" answers
}

# With a directive left that only the module knows nginx cannot reload, but goes on, and can be mended.
remove_too_early() {
    step "removed too early"
    write_status
    apt_get remove "$PACKAGE"
    # shellcheck disable=SC2016 # It is eval that looks at it.
    ok "nginx -t names the directive" eval 'grep "unknown directive \"keepalive_status\"" <<<"$(nginx -t 2>&1)"'
    ok "nginx answers" answers
    apt_get install /check/new.deb
    ok "installed again, it is enabled again" test -e "$LINK"
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers
}

remove_and_purge() {
    step "remove"
    rm /etc/nginx/conf.d/status.conf
    apt_get remove "$PACKAGE"
    ok "it is disabled" test ! -e "$LINK"
    ok "and remembered for the next time" test -L "$LINK.removed"
    ok "nginx -t passes" nginx -t
    ok "nginx does without it" wait_for 10 eval '! in_use'
    ok "nginx answers" answers

    step "purge"
    apt_get purge "$PACKAGE"
    ok "nothing is left of it" nothing_left
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers

    step "purge of the installed package"
    apt_get install /check/new.deb
    ok "it is in use" wait_for 10 in_use
    apt_get purge "$PACKAGE"
    ok "nothing is left of it" nothing_left
    ok "nginx -t passes" nginx -t
    ok "nginx does without it" wait_for 10 eval '! in_use'
    ok "nginx answers" answers
}

nothing_left() { ! find /etc /usr /var/lib/nginx /var/lib/dpkg/info -name '*keepalive-rs*' -o -name "$MODULE*" | grep .; }

# Neither a package for another nginx comes to this one, nor another nginx to this package.
refuse_other_abi() {
    step "another ABI"
    mkdir -p /check/other /check/nginx/DEBIAN /check/archive
    dpkg-deb -R /check/old.deb /check/other
    sed -i 's/nginx-abi-[^,]*/nginx-abi-9.9.9-1/' /check/other/DEBIAN/control
    dpkg-deb -b /check/other /check/other.deb >/dev/null
    ok "apt refuses the package" eval '! apt_get install /check/other.deb'
    ok "nothing of it is there" nothing_left

    printf '%s\n' 'Package: nginx' 'Version: 9.9.9-1' "Architecture: $(dpkg --print-architecture)" \
        'Maintainer: nobody <nobody@example.org>' 'Provides: nginx-abi-9.9.9-1' 'Description: another nginx' \
        >/check/nginx/DEBIAN/control
    dpkg-deb -b /check/nginx /check/archive/nginx.deb >/dev/null
    apt_get install /check/old.deb
    offer_nginx
    apt_get --simulate upgrade >/check/said
    ok "apt keeps back an nginx of another ABI" eval 'grep -A1 "kept back" /check/said | grep -w nginx'
    apt_get --simulate dist-upgrade >/check/said
    ok "apt dist-upgrade takes it, without the module" grep "^Remv $PACKAGE" /check/said
    apt-mark hold "$PACKAGE"
    apt_get --simulate dist-upgrade >/check/said
    ok "unless the module is held" eval 'grep -A1 "kept back" /check/said | grep -w nginx'
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers
}

# An archive that has nothing but that nginx.
offer_nginx() {
    {
        dpkg-deb -f /check/archive/nginx.deb
        printf '%s\n' 'Filename: ./nginx.deb' "Size: $(stat -c %s /check/archive/nginx.deb)" \
            "SHA256: $(sha256sum /check/archive/nginx.deb | cut -d' ' -f1)" ''
    } >/check/archive/Packages
    rm -f /etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/check/archive ./' >/etc/apt/sources.list
    apt_get update
}

ask_all_the_time() {
    trap - EXIT
    until [[ -e /check/stop ]]; do
        date >>"/check/$(answers 2>/dev/null && echo good || echo bad)"
        sleep 0.02
    done
}

installed_version() { dpkg-query -W -f '${Version}' "$PACKAGE"; }

apt_get() { apt-get -q -y --no-install-recommends "$@"; }

main
