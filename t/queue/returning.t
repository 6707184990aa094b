# A server becomes available again after fail_timeout, without an event: the module checks once a second, however many new
# requests arrive.
#
# faults: F13.2 "the server that has come back is used"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
my $servers = 'server ' . $backend->address(0) . ' max_conns=1 max_fails=0; '
    . 'server ' . $backend->address(1) . ' max_conns=1 max_fails=1 fail_timeout=1s; keepalive 4; queue 1000 timeout=60s;';
my @names = ('no_zone', 'zone');
my $nginx = queue_nginx($port, { no_zone => $servers, zone => "zone zone 64k; $servers" },
    inside => 'proxy_next_upstream off;')->start;

# The one server is held for ever, the other one fails.
my @held = map { hold_listener($backend, 0, $port, "/$_?fault=hang&at=start") } @names;
$backend->drop;
$backend->refuse(1000, 1);
is get($port, "/$_?fails")->{status}, 502, "$_: a server fails" for @names;

my $begun = time;
my (@waiting, %served);
while (time - $begun < 8 && keys %served < @names) {
    for my $name (@names) {
        push @waiting, begin($port, "/$name?n=" . @waiting);
        $served{$name} //= time - $begun if grep { $_->{status} == 200 } log_of($nginx, "/$name?n=");
    }
    sleep 0.1;
}
ok $served{$_}, "$_: the server that has come back is used, although there are newcomers all the time" for @names;
diag join ', ', map { sprintf '%s after %.1f s', $_, $served{$_} // 0 } @names;
$_->abort for @held, @waiting;
$nginx->stop;

# A server on trial after a failure, with two of its three slots taken by connections that are being drained. A request that
# waits for a slot there, and whose client leaves, says nothing of the server: it is not taken for well again.
$backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
$port = free_port();
$nginx = queue_nginx($port, { trial => 'server ' . $backend->address(0) . ' max_conns=3 max_fails=1 fail_timeout=1s; '
        . 'server ' . $backend->address(1) . ' backup; keepalive 8; keepalive_drain 64k timeout=60s;' },
    locations => <<'END')->start;
    location = /unread { auth_request /long; try_files /none =204; }
    location = /long { proxy_pass http://trial/?len=1000&drip=3000; }
END
is get($port, '/unread')->{status}, 204, 'on trial: an answer stays unread' for 1, 2;
is get($port, '/trial?fault=close&at=start&only=0')->{status}, 200, 'on trial: the server fails, the backup server answers';
sleep 2.1;
my $trial = begin($port, '/trial?fault=hang&at=start');
ok wait_for { $backend->requests(0) == 4 }, 'on trial: a request tries the server, and takes its last slot';
sleep 2.1;
my $leaves = begin($port, '/trial?leaves');
settle($port);
is $backend->requests, 5, 'on trial: another one waits for a slot';
$leaves->abort;
settle($port);
my $next = begin($port, '/trial?next');
settle($port);
is get($port, '/trial?newcomer', timeout => 2)->{status} // 'none', 200, 'on trial: the next one waits, a newcomer does not';
is $backend->requests(1), 2, 'on trial: the backup server has answered it';
$_->abort for $trial, $next;
$nginx->stop;
done_testing;
