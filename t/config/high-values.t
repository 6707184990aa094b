# Realistic values: a large pool whose connections live for a day and for millions of requests.
#
# faults: F11.3 "of 600 connections 512 are kept"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
upstream backend {
    server @{[ $backend->address ]};
    keepalive 512;
    keepalive_requests 10485760;
    keepalive_time 365d;
    keepalive_timeout 86400s;
}
upstream huge { server 127.0.0.1:1; keepalive 100000; keepalive_requests 2147483648; }
server {
    listen 127.0.0.1:$port backlog=1024;
    location / { proxy_pass http://backend; $proxy_keepalive }
    location /huge { proxy_pass http://huge; }
}
END

# Far more than the 100 requests that were once the default, and the 1000 that are now.
my ($answers, @failures) = Keepalive::Load->start($port, clients => 4, requests => 600, request => sub { '/' })->finish;
is_deeply \@failures, [], "none of $answers requests failed";
cmp_ok $backend->stats->{accepted}, '<=', 4, 'four clients need no more than four connections';

# Fill the pool, use all of it again, and overfill it.
sub together {
    my ($number, $delay) = @_;
    my @requests = map { begin($port, "/?delay=$delay") } 1 .. $number;
    return grep { $_->finish->{status} != 200 } @requests;
}
is scalar together(300, 2000), 0, '300 requests at once are answered';
is $backend->stats->{open}, 300, 'all their connections are kept';
is scalar together(300, 2000), 0, '300 more';
is $backend->stats->{accepted}, 300, 'need no new connection';
is scalar together(600, 4000), 0, '600 requests at once are answered';
ok wait_for { $backend->stats->{open} == 512 }, 'of 600 connections 512 are kept';

$nginx->stop;
done_testing;
