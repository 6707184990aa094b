# proxy_limit_rate delays reading: neither the delay nor its timer follows the connection into the pool.
#
# faults: F16.2 "without a delay" "it stays in the pool"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream backend { server @{[ $backend->address ]}; keepalive 4; keepalive_timeout 3s; }
server {
    listen 127.0.0.1:$port;
    location /slow { proxy_pass http://backend; proxy_limit_rate 500; }
    location /fast { proxy_pass http://backend; }
}
END

# The whole answer is read at once, and nginx wants to pause for a second after it: no request must wait for that.
# (The body comes apart from the header, so that it is read by the rate-limited way.)
for my $round (1 .. 2) {
    my $slow = get($port, '/slow?len=499&drip=1');
    is length $slow->{body}, 499, 'a rate-limited answer arrives';
    my $begun = time;
    my $fast = get($port, '/fast?len=5000&drip=5');
    is length $fast->{body}, 5000, 'the next answer arrives, too';
    is $fast->{headers}{'x-connection'}, $slow->{headers}{'x-connection'}, 'over the same connection';
    cmp_ok time - $begun, '<', 0.7, 'without a delay';
}

# Nor does the timer of the pause close it while idle, or keep a close of the server from being seen.
my $slow = get($port, '/slow?len=499&drip=1');
select undef, undef, undef, 1.2;
is get($port, '/fast')->{headers}{'x-connection'}, $slow->{headers}{'x-connection'}, 'it stays in the pool';
get($port, '/slow?len=499&drip=1');
$backend->drop;
ok wait_for { $backend->stats->{open} == 0 }, 'the server closes it';
select undef, undef, undef, 0.05;
is get($port, '/fast', method => 'POST', body => 'x')->{status}, 200, 'and a POST is not sent into it';

$nginx->stop;
done_testing;
