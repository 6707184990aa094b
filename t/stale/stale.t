# The server closes a connection just when nginx uses it again, after it has received the request: as with the stock module,
# nginx repeats what may be repeated, at last on a new connection, and answers 502 to the rest.
#
# faults: F1.3 "just before a POST: it goes by a new connection"
# faults: F1.4 "POST $path"
# faults: F1.5 "in the body: the client sees that the answer is not complete"
# faults: F2.3 "just before a POST: it goes by a new connection"
# faults: F2.4 "POST $path"
# faults: F2.5 "in the body: the connection is not used again"
# faults: F3.2 "/unbuffered?$script"
# faults: F3.3 "/forced?$script" "/never?$script"
# faults: F4.1 "all of them are stale, the request is answered"

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
upstream backend { server @{[ $backend->address ]}; keepalive 16; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; }
    location /forced { proxy_pass http://backend; proxy_next_upstream error timeout non_idempotent; }
    location /never { proxy_pass http://backend; proxy_next_upstream off; }
    location /unbuffered { proxy_pass http://backend; proxy_request_buffering off; }
}
END

# Empties the pool, and starts with one idle connection, which is number 1.
sub begin_with_one {
    $backend->drop;
    ok wait_for { $backend->stats->{open} == 0 }, 'the pool is empty';
    $backend->reset;
    get($port, '/');
}

sub outcome {
    my ($answer) = @_;
    return $answer->{status} == 200 ? "connection $answer->{headers}{'x-connection'}" : "status $answer->{status}";
}

for my $how (qw(close reset)) {
    for my $at (qw(start header)) {
        my $script = "fault=$how&at=$at&from=2";
        my @post = (method => 'POST', body => 'x');
        my %expected = (
            "/?$script" => ['connection 2', 'status 502'],
            "/forced?$script" => ['connection 2', 'connection 2'],
            "/never?$script" => ['status 502', 'status 502'],
            "/unbuffered?$script" => ['connection 2', 'status 502'],
        );
        for my $path (sort keys %expected) {
            begin_with_one();
            is outcome(get($port, $path)), $expected{$path}[0], "GET $path";
            begin_with_one();
            is outcome(get($port, $path, @post)), $expected{$path}[1], "POST $path";
        }
    }

    # Once part of the answer has gone to the client, nothing can be repeated.
    begin_with_one();
    my $answer = get($port, "/?fault=$how&at=body&len=1000&from=2");
    ok !$answer->{complete}, "$how in the body: the client sees that the answer is not complete";
    is outcome(get($port, '/')), 'connection 2', "$how in the body: the connection is not used again";
}

# A whole pool of stale connections: with the stock module one request walks through all of them before it is answered by a
# new one. Ours takes a new one at once.
$backend->drop;
ok wait_for { $backend->stats->{open} == 0 }, 'the pool is empty';
$backend->reset;
$_->finish for map { begin($port, '/?delay=100') } 1 .. 10;
is $backend->stats->{open}, 10, 'ten connections are idle';
is outcome(get($port, '/?fault=close&at=start&from=2')), 'connection 11', 'all of them are stale, the request is answered';
my $left = is_ours() ? 10 : 1;
ok wait_for { $backend->stats->{open} == $left }, 'those that were tried are gone';
is outcome(get($port, '/')), 'connection 11', 'the new one is used again';

# The server has closed, but nginx has had no time to see it when the next request comes: it must look first.
# The worker is stopped meanwhile, so both events wait for it, the close before the request.
for my $how (qw(close reset)) {
    begin_with_one();
    my ($worker) = $nginx->workers;
    kill STOP => $worker;
    $backend->drop($how);
    ok wait_for { $backend->stats->{open} == 0 }, 'the server has closed';
    my $request = begin($port, '/', method => 'POST', body => 'x');
    kill CONT => $worker;
    is outcome($request->finish), 'connection 2', "$how just before a POST: it goes by a new connection";
}

$nginx->stop;
done_testing;
