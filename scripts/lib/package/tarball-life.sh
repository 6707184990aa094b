#!/usr/bin/env bash
# The life of the tarball on a running nginx that is no package, by the commands of its file INSTALL. Run by image.sh in a
# chroot; the tarball is unpacked in /check.

set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. /check/scripts/lib/common.sh
use processes package/site

main() {
    begin_life
    /usr/sbin/nginx
    ok "nginx answers" wait_for 10 answers
    ok "the module is not there" eval '! in_use'

    step "install"
    run_commands_of "Install"
    sed -i "1i $(sed -n 's/^ *\(load_module .*;\)$/\1/p' /check/INSTALL)" /etc/nginx/nginx.conf
    write_status
    ok "nginx -t passes" nginx -t
    nginx -s reload
    ok "nginx uses it after a reload" wait_for 10 in_use
    ok "the status page has seen connections that were used again" wait_for 10 eval 'answers && reuse_seen'

    step "upgrade"
    run_commands_of "Upgrade"
    ok "nginx -t passes" nginx -t
    ok "nginx goes on with the old file" grep -q "$FILE (deleted)" "/proc/$(master)/maps"
    eval "$(grep 'kill -USR2' /check/INSTALL)"
    ok "a second master starts" wait_for 10 test -s /run/nginx.pid.oldbin -a -s /run/nginx.pid
    eval "$(grep 'kill -QUIT' /check/INSTALL)"
    ok "and takes up the new file" wait_for 10 new_file_in_use
    ok "nginx answers" answers

    step "remove"
    rm /etc/nginx/conf.d/status.conf
    sed -i '/^load_module/d' /etc/nginx/nginx.conf
    ok "nginx -t passes" nginx -t
    nginx -s reload
    ok "nginx does without it" wait_for 10 eval '! in_use'
    eval "$(grep '^ *rm ' /check/INSTALL)"
    ok "nginx -t passes" nginx -t
    ok "nginx answers" answers
}

# The line that brings the file, under that heading.
run_commands_of() { (cd /check && eval "$(sed -n "/^$1/,\$p" INSTALL | grep -m 1 '^ *install ')"); }

main
