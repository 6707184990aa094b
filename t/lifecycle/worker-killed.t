# A worker is killed: the kernel closes its connections, and its successor starts with an empty pool.
#
# faults: F12.3 "four requests at once are still allowed"
# faults: F14.3 "a new worker is there"

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

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
upstream backend {
    zone backend 64k;
    server @{[ $backend->address ]} max_conns=4;
    keepalive 8;
}
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
$nginx->allow(qr/exited on signal 9/);

for my $round (1 .. 3) {
    $_->finish for map { begin($port, '/?delay=50') } 1 .. 4;
    is $backend->stats->{open}, 4, 'four connections are idle';
    my ($worker) = $nginx->workers;
    kill KILL => $worker;
    ok wait_for { my ($new) = $nginx->workers; $new && $new != $worker }, 'a new worker is there';
    ok wait_for { $backend->stats->{open} == 0 }, 'the connections are closed';
    # No place of max_conns may be lost with idle connections: their requests had ended.
    is join(' ', map { $_->finish->{status} } map { begin($port, '/?delay=50') } 1 .. 4), '200 200 200 200',
        'four requests at once are still allowed';
    get($port, '/');
    is $backend->stats->{accepted}, 4 * ($round + 1), 'over connections of the new worker, which are used again';
}

$nginx->stop;
done_testing;
