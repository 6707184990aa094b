# The limit of descriptors is reached (worker_rlimit_nofile): requests fail with 500 and nginx's own log line, and idle
# connections of the pools are closed, so that the next requests are served.
#
# faults: F15.2 "the next one gets that of a pool that has given up its own"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my ($port) = free_port();
my $server = $backend->address;
my $limit = 48;
my @pools = map { "p$_" } 1 .. $limit;

my $nginx = Keepalive::Nginx->new(log_level => 'warn', main => "worker_rlimit_nofile $limit;", http => join "\n",
    "$proxy_keepalive keepalive_timeout 0;",
    (map { "upstream $_ { server $server; keepalive 64; keepalive_timeout 1h; }" } @pools),
    "server { listen 127.0.0.1:$port;",
    (map { "location /$_ { proxy_pass http://$_; }" } @pools),
    'location /elsewhere { proxy_bind 192.0.2.1; proxy_pass http://p2; }', '}')->start;
$nginx->allow(qr/\(24: Too many open files\)|bind\(192\.0\.2\.1\) failed/);
my ($worker) = $nginx->workers;

get($port, '/p1');
is statuses(map { get($port, '/elsewhere') } 1 .. 3), '500 x 3', 'connections from an address that is not there';
is $backend->stats->{open}, 1, 'are not what pools give up theirs for';
$backend->drop;
ok wait_for { $backend->stats->{open} == 0 }, 'the pools are empty';
my $descriptors = $nginx->descriptors;

# More at a time than there is room for: some fail at once, some clients have to wait until nginx accepts them.
for my $round (1 .. 2) {
    my %seen;
    $seen{ $_->finish->{status} }++ for map { begin($port, "/p1?delay=200&n=$_") } 1 .. 40;
    is join(' ', grep { !/^(?:200|500)$/ } sort keys %seen), '', "round $round: nothing but 200 and 500";
    cmp_ok $seen{200} // 0, '>=', 10, "round $round: those with descriptors are served";
    is statuses(map { get($port, '/p1') } 1 .. 5), '200 x 5', "round $round: afterwards all is well";
}
like $nginx->error_log, qr/(?:socket|accept4?)\(\) failed \(24: Too many open files\)/, 'nginx has said so';

# Idle connections of many pools, one each, take all descriptors but the last one, which a client gets.
my ($pool, $status);
for (@pools) {
    ($pool, $status) = ($_, get($port, "/$_")->{status});
    last if $status != 200;
    wait_for { $backend->stats->{busy} == 0 };
}
is $status, 500, "no descriptor is left for the connection of $pool";
SKIP: {
    skip 'needs the module', 1 unless is_ours();
    is statuses(map { get($port, "/$pool") } 1 .. 5), '200 x 5', 'the next one gets that of a pool that has given up its own';
}

is join(' ', $nginx->workers), $worker, 'the worker is the one that was started';
$backend->drop;
ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left behind'
    or diag $nginx->descriptors . " instead of $descriptors";
$nginx->stop;
done_testing;
