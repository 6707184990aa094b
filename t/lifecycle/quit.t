# Graceful QUIT: idle connections are closed at once, busy ones finish their request, and the workers exit soon after.
#
# faults: F14.2 "idle connections do not hold up the exit" "TERM is quick"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

# The timeouts are long: a worker that waits for one of them is noticed.
sub nginx {
    $backend->reset;
    return Keepalive::Nginx->new(http => <<"END", @_)->start;
upstream backend { server @{[ $backend->address ]}; keepalive 16; keepalive_timeout 1h; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
}

# QUIT with nothing but idle connections.
{
    my $nginx = nginx();
    my @requests = map { begin($port, '/?delay=50') } 1 .. 8;
    $_->finish for @requests;
    is $backend->stats->{open}, 8, 'eight connections are idle';
    my $begun = time;
    $nginx->stop;
    cmp_ok time - $begun, '<', 2, 'idle connections do not hold up the exit';
    ok wait_for { $backend->stats->{open} == 0 }, 'the server sees them closed';
}

# QUIT while a request is under way, on a connection that has been idle before, beside others that are still idle.
{
    my $nginx = nginx();
    $_->finish for map { begin($port, '/?delay=50') } 1 .. 3;
    my @busy = map { begin($port, "/?delay=600&n=$_") } 1, 2;
    ok wait_for { $backend->stats->{requests} == 5 }, 'two requests are under way';
    is $backend->stats->{accepted}, 3, 'on connections from the pool';
    my ($worker) = $nginx->workers;
    $nginx->signal('QUIT');
    ok wait_for { $backend->stats->{open} == 2 }, 'the idle connection is closed at once';
    for my $request (@busy) {
        my $answer = $request->finish;
        is $answer->{status}, 200, 'the request under way is answered';
        is $answer->{headers}{'x-request'}, 2, 'by the connection it was sent on';
    }
    my $answered = time;
    ok wait_for { !Keepalive::Nginx::is_alive($worker) }, 'the worker exits';
    cmp_ok time - $answered, '<', 2, 'soon after the answer: the connections were not put into the pool again';
    ok wait_for { $backend->stats->{open} == 0 }, 'they are closed';
    $nginx->stop;
}

# QUIT visits all idle connections, and only these: a busy one that is still marked as idle would be visited, too.
SKIP: {
    skip 'nginx was built without --with-debug', 1 unless has_feature('with-debug');
    my $nginx = nginx(log_level => 'debug');
    get($port, '/');
    my $busy = begin($port, '/?delay=400');
    ok wait_for { $backend->stats->{requests} == 2 }, 'a request is under way on a connection from the pool';
    $nginx->signal('QUIT');
    is $busy->finish->{status}, 200, 'it is answered';
    $nginx->stop;
    my ($after) = $nginx->error_log =~ /\[notice\][^\n]*gracefully shutting down(.*?)http proxy status/s;
    my @visits = $after =~ /http upstream request: /g;
    is @visits, 1, 'the next event on its connection is the answer';
}

# QUIT while an answer is being sent piece by piece.
{
    my $nginx = nginx();
    get($port, '/');
    my $slow = begin($port, '/?len=100000&drip=50');
    ok wait_for { $backend->stats->{requests} == 2 }, 'a slow answer is under way';
    $nginx->signal('QUIT');
    my $answer = $slow->finish;
    is length $answer->{body}, 100000, 'it arrives complete';
    $nginx->stop;
}

# TERM does not wait, and leaves nothing open either.
{
    my $nginx = nginx();
    $_->finish for map { begin($port, '/?delay=50') } 1 .. 3;
    my $busy = begin($port, '/?delay=5000');
    ok wait_for { $backend->stats->{requests} == 4 }, 'one request is under way, two connections are idle';
    my $begun = time;
    $nginx->stop('TERM');
    cmp_ok time - $begun, '<', 2, 'TERM is quick';
    $busy->abort;
}

done_testing;
