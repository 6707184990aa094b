# A worker runs out of connections: requests fail meanwhile, but the pool survives and works afterwards.
#
# faults: F15.1 "afterwards all is well"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(connections => 32, http => <<"END")->start;
upstream backend { server @{[ $backend->address ]}; keepalive 64; keepalive_timeout 500ms; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
$nginx->allow(qr/worker_connections are not enough/);

get($port, '/');
ok wait_for { $backend->stats->{open} == 0 }, 'the pool is empty';
my $descriptors = $nginx->descriptors;

for my $round (1 .. 3) {
    my @requests = map { begin($port, '/?delay=200', timeout => 3) } 1 .. 40;
    my %seen;
    $seen{ $_->finish->{status} }++ for @requests;
    ok $seen{200}, "round $round: some of 40 requests are answered";
    cmp_ok $seen{200}, '<', 40, "round $round: for others there were no connections";
    is join(' ', map { get($port, '/')->{status} } 1 .. 5), '200 200 200 200 200', "round $round: afterwards all is well";
}
like $nginx->error_log, qr/worker_connections are not enough/, 'nginx has said so';

ok wait_for { $backend->stats->{open} == 0 }, 'the pool empties itself';
ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left behind';
$backend->reset;
get($port, '/') for 1 .. 5;
is $backend->stats->{accepted}, 1, 'the pool works';

$nginx->stop;
done_testing;
