# The client leaves: a connection whose answer was not read to its end is closed and never used again.
#
# faults: F9.3 "in the request body: the connection is closed" "an early answer: the next request has a new connection"
# faults: F9.4 "before the answer: the connection is closed" "in the answer: the connection is closed"
# faults: F9.4 "ignored: afterwards it is in the pool"

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
my $ended = work_dir() . '/ended';

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream backend { server @{[ $backend->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; }
    location /unbuffered { proxy_pass http://backend; proxy_buffering off; }
    location /body { proxy_pass http://backend; proxy_request_buffering off; }
    location /ignore { proxy_pass http://backend; proxy_ignore_client_abort on; access_log $ended; }
}
END

sub serial { get($port, $_[0] || '/')->{headers}{'x-connection'} }

# Each case begins with one idle connection, so the abort meets a connection that has been used before.
sub abort_meets_the_pool {
    my ($title, $path, %options) = @_;
    my $wait = delete $options{wait};
    my $serial = serial();
    my $requests = $backend->stats->{requests};
    my $request = begin($port, $path, %options);
    ok wait_for { $backend->stats->{requests} == $requests + 1 }, "$title: the request is under way" if $wait eq 'request';
    $request->receive if $wait eq 'answer';
    select undef, undef, undef, 0.05 if $wait eq 'body';
    $request->abort;
    return $serial;
}

my $old = abort_meets_the_pool('before the answer', '/?delay=400', wait => 'request');
ok wait_for { $backend->stats->{open} == 0 }, 'before the answer: the connection is closed';
cmp_ok serial(), '>', $old, 'before the answer: the next request has a new one';

for my $way ('/', '/unbuffered') {
    $old = abort_meets_the_pool("$way in the answer", "$way?len=3000000&drip=30", wait => 'answer');
    ok wait_for { $backend->stats->{open} == 0 }, "$way in the answer: the connection is closed";
    cmp_ok serial(), '>', $old, "$way in the answer: the next request has a new one";
}

# The client announces a body and leaves after half of it: upstream has got half a request.
$old = abort_meets_the_pool('in the request body', '/body', method => 'POST', body => 'x' x 500, content_length => 1000,
    wait => 'body');
ok wait_for { $backend->stats->{open} == 0 }, 'in the request body: the connection is closed';
cmp_ok serial(), '>', $old, 'in the request body: the next request has a new one';

# The server answers early, the client never sends the rest: whatever goes next over it would be taken for the body.
$old = serial();
my $request = begin($port, '/body?early=1', method => 'POST', body => 'x' x 500, content_length => 1000);
like $request->receive, qr/^HTTP\/1.1 200 /, 'an early answer reaches the client';
cmp_ok serial(), '>', $old, 'an early answer: the next request has a new connection';
$request->abort;

# Told to ignore it, nginx reads the answer to its end, and the connection is as good as any.
ok wait_for { $backend->stats->{open} <= 1 }, 'the connection of the early answer is closed';
$old = abort_meets_the_pool('ignored', '/ignore?delay=700', wait => 'request');
is serial('/?delay=1'), $old + 1, 'ignored: meanwhile another connection is used';
is $backend->stats->{open}, 2, 'ignored: the first one is still in use';
ok wait_for { -s $ended }, 'ignored: it comes to its end';
is serial(), $old, 'ignored: afterwards it is in the pool';

$nginx->stop;
done_testing;
