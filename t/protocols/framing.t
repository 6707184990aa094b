# Every framing of an answer, buffered and unbuffered: the client gets the whole answer, and the connection is used again or not,
# as it should.
#
# faults: F6.1 "its connection is not used again"
# faults: F7.1 "version=1.0&header=Connection:keep-alive"
# faults: F7.2 "header=Connection:Close&stay=1" "header=Proxy-Connection:close"
# faults: F7.3 "framing=eof&len=100000"
# faults: F7.4 "the next request gets its own answer" "the protocol is switched" "status=204" "status=304&len=10"
# faults: F7.4 "'HEAD', 'framing=chunked'"
# faults: F7.6 "framing=trailers&len=1000&drip=2"

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
my $proxy = "proxy_pass http://backend; $proxy_keepalive";

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
upstream backend {
    server @{[ $backend->address ]};
    keepalive 4;
}
server {
    listen 127.0.0.1:$port;
    location /buffered {
        $proxy
    }
    location /unbuffered {
        $proxy
        proxy_buffering off;
    }
    location /small {
        $proxy
        proxy_buffer_size 1k;
        proxy_buffers 4 1k;
        proxy_busy_buffers_size 2k;
        proxy_temp_file_write_size 2k;
    }
    location /interim {
        $proxy
        proxy_read_timeout 300ms;
    }
    location /upgrade {
        proxy_pass http://backend;
        proxy_http_version 1.1;
        proxy_set_header Connection upgrade;
        proxy_set_header Upgrade echo;
    }
}
END

# Each case: method, query, the status and the length of the body the client sees, and whether the connection lives on.
my @cases = (
    ['GET',  'len=10',                             200, 10,     1],
    ['GET',  'len=0',                              200, 0,      1],
    ['GET',  'len=100000',                         200, 100000, 1],
    ['GET',  'len=100000&drip=2',                  200, 100000, 1],
    ['GET',  'framing=chunked&len=10',             200, 10,     1],
    ['GET',  'framing=chunked&len=0',              200, 0,      1],
    ['GET',  'framing=chunked&len=100000',         200, 100000, 1],
    ['GET',  'framing=chunked&len=1000&drip=2',    200, 1000,   1],
    ['GET',  'framing=trailers&len=10',            200, 10,     1],
    ['GET',  'framing=trailers&len=1000&drip=2',   200, 1000,   1],
    ['GET',  'framing=eof&len=10',                 200, 10,     0],
    ['GET',  'framing=eof&len=100000',             200, 100000, 0],
    ['GET',  'status=204',                         204, 0,      1],
    ['GET',  'status=304',                         304, 0,      1],
    ['GET',  'status=304&len=10',                  304, 0,      1],
    ['GET',  'status=404&len=10',                  404, 10,     1],
    ['GET',  'status=500&framing=chunked&len=10',  500, 10,     1],
    ['HEAD', 'len=10',                             200, 0,      1],
    ['HEAD', 'len=100000',                         200, 0,      1],
    ['HEAD', 'framing=chunked',                    200, 0,      1],
    ['HEAD', 'framing=eof',                        200, 0,      1],
    ['POST', 'len=10',                             200, 10,     1],
    ['POST', 'framing=chunked&len=10',             200, 10,     1],
    ['GET',  'len=10&header=Connection:keep-alive', 200, 10,    1],
    ['GET',  'len=10&header=Connection:Keep-Alive', 200, 10,    1],
    ['GET',  'len=10&header=Connection:close',     200, 10,     0],
    ['GET',  'len=10&header=Connection:Close&stay=1', 200, 10,  0],
    ['GET',  'len=10&header=Connection:TE%2C%20close&stay=1', 200, 10, 0],
    ['GET',  'len=10&version=1.0',                 200, 10,     0],
    ['GET',  'len=10&version=1.0&header=Connection:keep-alive', 200, 10, 0],
    ['GET',  'len=10&header=Keep-Alive:timeout=5', 200, 10,     1],
    # Which is no header of HTTP, and says nothing of the connection.
    ['GET',  'len=10&header=Proxy-Connection:close', 200, 10,   1],
    ['GET',  'len=10&header=Proxy-Connection:keep-alive&header=Connection:close&stay=1', 200, 10, 0],
    ['GET',  'len=10&version=1.0&header=Proxy-Connection:keep-alive&stay=1', 200, 10, 0],
    # Extra bytes in one piece with the answer, whose connection must not live on.
    ['GET',  'len=10&fault=extra',                 200, 10,     0],
    ['GET',  'framing=chunked&len=10&fault=extra', 200, 10,     0],
    ['GET',  'len=0&fault=extra',                  200, 0,      0],
    ['GET',  'status=204&fault=extra',             204, 0,      0],
    ['GET',  'status=304&fault=extra',             304, 0,      0],
    # Bytes that arrive with the header of a HEAD answer are discarded with the buffer, but more may be on their way.
    ['HEAD', 'len=10&fault=extra',                 200, 0,      is_ours() ? 0 : 1],
);

for my $way (qw(buffered unbuffered small)) {
    for my $case (@cases) {
        my ($method, $query, $status, $length, $lives) = @$case;
        my $name = "$way: $method $query";
        my $answer = get($port, "/$way?$query", method => $method, $method eq 'POST' ? (body => 'x' x 5000) : ());
        is "$answer->{status} " . length $answer->{body}, "$status $length", $name;

        my $next = get($port, "/$way?len=1");
        my $same = $next->{headers}{'x-connection'} == $answer->{headers}{'x-connection'} ? 1 : 0;
        is $same, $lives, "$name: " . ($lives ? 'its connection is used again' : 'its connection is not used again');
    }
}

# Interim answers: nginx reads over a 103 from 1.29.0 on, and takes other ones for the whole answer. What then follows
# must not be taken for the answer to the next request.
for my $interim (100, 102, 103, '103,103') {
    my $answer = get($port, "/interim?interim=$interim&len=3");
    my $next = get($port, '/buffered?len=7');
    is length $next->{body}, 7, "interim $interim: the next request gets its own answer";
    if ($interim =~ /^103/ && version_at_least('1.29.0')) {
        is "$answer->{status} $answer->{body}", '200 xxx', "interim $interim: the answer comes after it";
        is $next->{headers}{'x-connection'}, $answer->{headers}{'x-connection'}, "interim $interim: the connection lives on";
    }
    else {
        is $next->{headers}{'x-request'}, 1, "interim $interim: its connection is not used again";
    }
}

# A protocol switch takes its connection for good, even one from the pool.
my $before = get($port, '/buffered')->{headers}{'x-connection'};
my $tunnel = begin($port, '/upgrade?upgrade=1', headers => { Upgrade => 'echo' });
like $tunnel->receive, qr/^HTTP\/1.1 101 /, 'the protocol is switched';
$tunnel->more('hello');
is $tunnel->receive, 'hello', 'the tunnel works';
is $backend->stats->{open}, 1, 'on the connection from the pool';
$tunnel->abort;
ok wait_for { $backend->stats->{open} == 0 }, 'the connection ends with the tunnel';
cmp_ok get($port, '/buffered')->{headers}{'x-connection'}, '>', $before, 'the next request opens a new one';

$nginx->stop;
done_testing;
