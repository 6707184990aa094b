# http2: a worker that exits while a request waits for a stream stores connections of HTTP/1, and closes them before it is gone.
#
# faults: F14.2 "the worker does not wait for it" "no socket is left open"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();
plan skip_all => 'needs gRPC' if !has_feature('with-http_v2_module');

my $server = Keepalive::Streams->start;
my $port = free_port();

for my $handover ('off', 'on') {
    for my $case (['the client leaves', ''], ['the stream is there', ''], ['the client leaves', '&header=Keep-Alive:timeout=120']) {
        my ($end, $hint) = @$case;
        my $title = "keepalive_handover $handover, $end$hint";
        $server->reset;
        my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream one {
    server @{[ $server->address ]};
    keepalive 4;
    keepalive_timeout 1h;
    keepalive_handover $handover;
    http2 auto streams=1 connections=1;
}
server {
    listen 127.0.0.1:$port;
    location /plain { proxy_pass http://one; }
    location /grpc { grpc_pass grpc://one; }
}
END
        my ($worker) = $nginx->workers;
        my $stream = begin($port, '/grpc?n=1&delay=1500');
        ok wait_for { scalar $server->carriers }, "$title: a stream";
        my $waiting = begin($port, '/grpc?n=2');
        my $plain = begin($port, "/plain?delay=500$hint");
        ok wait_for { scalar $server->ordinary }, "$title: and a connection";
        sleep 0.1;
        $nginx->signal('QUIT');
        is $plain->finish->{status}, 200, "$title: it is stored";
        $end eq 'the client leaves' ? $waiting->abort : $waiting->finish;
        $stream->finish;
        my $begun = time;
        ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$title: the worker exits";
        cmp_ok time - $begun, '<', 3, "$title: the worker does not wait for it";
        unlike $nginx->error_log, qr/open socket/, "$title: no socket is left open";
        $nginx->check_error_log;
        ok wait_for { !$server->stats->{open} }, "$title: the server sees that too";
    }
}

done_testing;
