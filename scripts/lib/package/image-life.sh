#!/usr/bin/env bash
# What the image of Dockerfile does: its nginx answers through the module. Run by image.sh in a chroot.

set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. /check/scripts/lib/common.sh
use processes package/site

begin_life
write_status
ok "nginx -t passes" nginx -t
# As the image starts it.
nginx -g 'daemon off;' &
remember_pid $!
ok "nginx answers" wait_for 10 answers
ok "through the module" in_use
ok "the status page has seen connections that were used again" wait_for 10 eval 'answers && reuse_seen'
