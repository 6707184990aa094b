# No local port is left for a connection to the server: nginx logs it, and the request fails as with an unreachable server. Runs
# in a network namespace with four ports.
#
# faults: F15.2 "others wait for them"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

plan skip_all => $missing if $missing;
system('ip link set lo up') == 0 or plan skip_all => 'there is no loopback interface';
my $range = '/proc/sys/net/ipv4/ip_local_port_range';
if (open my $out, '>', $range) { print $out "45000 45003"; close $out }
open my $in, '<', $range or plan skip_all => "$range: $!";
plan skip_all => 'the range of ports cannot be set' if <$in> !~ /^45000\s+45003$/;

# The test's own connections go by unix sockets, and take no port.
my $backend = Keepalive::Backend->start(listen => ['127.0.0.1:40000'], within => ['env']);
my $socket = work_dir() . '/s';
my $times = is_ours() ? 'queue 10 timeout=5s;' : '';
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream pool { server 127.0.0.1:40000 max_fails=0; keepalive 8; keepalive_timeout 1h; }
upstream limited { zone limited 128k; server 127.0.0.1:40000 max_fails=0 max_conns=3; keepalive 8; $times }
server {
    listen unix:$socket;
    location /pool { proxy_pass http://pool; }
    location /limited { proxy_pass http://limited; }
}
END
$nginx->allow(qr/\(99: (?:Cannot assign requested address|Address not available)\) while connecting to upstream/);
my $at_once = sub { my ($path, $number) = @_; return statuses(map { begin(0, "$path?delay=200&n=$_", socket => $socket) } 1 .. $number) };

is $at_once->('/pool', 4), '200 x 4', 'as many as there are ports';
for my $round (1, 2) {
    is $at_once->('/pool', 6), '200 x 4, 502 x 2', "round $round: two more";
    is $at_once->('/pool', 4), '200 x 4', "round $round: afterwards all is well";
}
is $backend->stats->{accepted}, 4, 'over the same four connections';
like $nginx->error_log, qr/\[crit\].*connect\(\) to 127\.0\.0\.1:40000 failed \(99: /, 'nginx has said why';

# The places of connections that could not be opened are free again.
$backend->drop;
ok wait_for { $backend->stats->{open} == 0 }, 'the pool is empty';
is $at_once->('/limited', 3), '200 x 3', 'ports are free again, and the server takes three';
if (is_ours()) {
    $at_once->('/pool', 6);
    is $at_once->('/limited', 6), '200 x 6', 'others wait for them';
}

$nginx->stop;
done_testing;
