# The limit of descriptors is reached (worker_rlimit_nofile): requests fail with 500 and a line of nginx's, and what is idle in
# the pools is given up, so that the next ones are served.

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
my @pools = map { "p$_" } 1 .. 8;

my $nginx = Keepalive::Nginx->new(log_level => 'warn', main => "worker_rlimit_nofile $limit;", http => join "\n",
    'proxy_http_version 1.1; proxy_set_header Connection ""; keepalive_timeout 0;',
    (map { "upstream $_ { server $server; keepalive 64; keepalive_timeout 1h; }" } @pools),
    "server { listen 127.0.0.1:$port;",
    (map { "location /$_ { proxy_pass http://$_; }" } @pools), '}')->start;
$nginx->allow(qr/\(24: Too many open files\)/);
my ($worker) = $nginx->workers;

get($port, '/p1');
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

# Idle connections of other pools take what is left, down to a single descriptor. Clients are gone by then.
for my $pool (@pools[0 .. 6]) {
    my $room = int(($limit - $nginx->descriptors) / 2) or last;
    $_->finish for map { begin($port, "/$pool?delay=100&n=$_") } 1 .. $room;
    wait_for { $backend->stats->{busy} == 0 };
}
cmp_ok $limit - $nginx->descriptors, '<=', 1, 'hardly a descriptor is left';
SKIP: {
    skip 'needs the module', 2 unless is_ours();
    my @statuses = map { get($port, '/p8')->{status} } 1 .. 8;
    is scalar(grep { $_ != 200 && $_ != 500 } @statuses), 0, "requests for a new connection: @statuses";
    is join(' ', @statuses[2 .. 7]), join(' ', (200) x 6), 'after the first ones there are descriptors, given up by other pools';
}

is join(' ', $nginx->workers), $worker, 'the worker is the one that was started';
$backend->drop;
ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left behind'
    or diag $nginx->descriptors . " instead of $descriptors";
$nginx->stop;
done_testing;
