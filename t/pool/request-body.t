# Request bodies on connections from the pool: buffered, unbuffered, chunked, slow, and rejected by the server.
#
# faults: F3.1 "a chunked body"
# faults: F8.1 "refused in the middle of the body"

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
$proxy_keepalive
client_max_body_size 20m;
upstream backend { server @{[ $backend->address ]}; keepalive 4; keepalive_timeout 700ms; }
server {
    listen 127.0.0.1:$port;
    location /buffered { proxy_pass http://backend; }
    location /unbuffered { proxy_pass http://backend; proxy_request_buffering off; }
}
END

sub told { my ($answer) = @_; join ' ', map { $answer->{headers}{$_} // '-' } qw(x-connection x-request x-body-length) }

for my $way (qw(buffered unbuffered)) {
    $backend->drop;
    ok wait_for { $backend->stats->{open} == 0 }, "$way: the pool is empty";
    $backend->reset;
    my $number = 0;
    for my $size (0, 1, 1000, 100000, 3000000, 1) {
        $number++;
        is told(get($port, "/$way", method => 'POST', body => 'x' x $size)), "1 $number $size", "$way: $size bytes";
    }
    is told(get($port, "/$way", method => 'PUT', chunks => [('x' x 1000) x 3])), '1 7 3000', "$way: a chunked body";

    # An early answer, when the whole body has been sent all the same.
    is told(get($port, "/$way?early=1", method => 'POST', body => 'x' x 100)), '1 8 -', "$way: answered early, body sent";
    is told(get($port, "/$way")), '1 9 0', "$way: the server has taken the body, the connection lives on";
}

# The upload takes longer than keepalive_timeout, and begins on a connection that was idle: its timer is gone.
get($port, '/unbuffered');
my $slow = begin($port, '/unbuffered', method => 'POST', content_length => 3, body => 'x');
for (1, 2) {
    select undef, undef, undef, 0.5;
    $slow->more('x');
}
my $answer = $slow->finish;
is $answer->{status}, 200, 'a slow upload comes to its end';
like told($answer), qr/^1 \d+ 3$/, 'on the connection that had been idle';

# The server refuses a body in the middle of it: what it has not read would spoil the next request.
for my $way (qw(buffered unbuffered)) {
    get($port, "/$way");
    my $before = $backend->stats->{accepted};
    my $refused = get($port, "/$way?early=1&status=413&len=1&fault=hang&after=400", method => 'POST', body => 'x' x 15e6);
    is $refused->{status}, 413, "$way: refused in the middle of the body";
    get($port, "/$way");
    is $backend->stats->{accepted}, $before + 1, "$way: the next request has a new connection";
}

$nginx->stop;
done_testing;
