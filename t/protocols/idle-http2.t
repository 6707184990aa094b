# An idle HTTP/2 connection (gRPC, and the proxy module since nginx 1.29.4) on which the server sends anything, even a PING, is
# closed, as by the stock module: only nginx's protocol module knows its flow control and its last stream. A late answer is never
# given to the next request. A request that meets a closed connection is sent again.
#
# faults: F1.4 "on a stale connection"
# faults: F6.3 "by three" "no answer is mixed up with another one"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Http2;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no gRPC' unless has_feature('with-http_v2_module');

# What a server sends 100 ms after each answer, while the connection is idle.
my %frames = (
    nothing  => '',
    ping     => Keepalive::Http2::frame(6, 0, 0, 'p' x 8),
    settings => Keepalive::Http2::frame(4, 0, 0, pack 'nN', 3, 50),
    window   => Keepalive::Http2::frame(8, 0, 0, pack 'N', 1000),
    goaway   => Keepalive::Http2::frame(7, 0, 0, pack 'NN', 1, 0),
    reset    => Keepalive::Http2::frame(3, 0, 1, pack 'N', 8),
    foreign  => Keepalive::Http2::answer(3, 'foreign') . Keepalive::Http2::answer(1, 'foreign'),
    data     => Keepalive::Http2::frame(0, 1, 3, 'foreign'),
    part     => "\0\0",
    garbage  => 'HTTP/1.1 400 Bad Request',
);
my $closing = Keepalive::Http2->start(undef);
my %server = map { $_ => Keepalive::Http2->start($frames{$_}) } sort keys %frames;
my $port = free_port();
my %pass = (grpc => 'grpc_pass grpc://');
$pass{proxy} = 'proxy_http_version 2; proxy_pass http://' if version_at_least('1.29.4');
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %frames) {
    for my $protocol (sort keys %pass) {
        $upstreams .= "upstream $protocol-$name { server 127.0.0.1:$server{$name}{port}; keepalive 4; }\n";
        $locations .= "location /$protocol/$name { $pass{$protocol}$protocol-$name; }\n";
    }
}
for my $protocol (sort keys %pass) {
    my $unchecked = is_ours() ? 'keepalive_check off;' : '';
    $upstreams .= "upstream $protocol-closing { server 127.0.0.1:$closing->{port}; keepalive 4; $unchecked }\n";
    $locations .= "location /$protocol/closing { $pass{$protocol}$protocol-closing; }\n";
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$upstreams
server { listen 127.0.0.1:$port; $locations }
END

for my $protocol (sort keys %pass) {
    for my $name (sort keys %frames) {
        my @answers = map { sleep 0.3 if $_ > 1; get($port, "/$protocol/$name") } 1 .. 3;
        is join(' ', map { $_->{status} } @answers), '200 200 200', "$protocol, $name: three answers";
        my @carriers = map { $_->{body} =~ /^connection (\d+) request (\d+)$/ ? "$1:$2" : "<$_->{body}>" } @answers;
        my ($first) = $carriers[0] =~ /^(\d+)/;
        my @expected = map { $name eq 'nothing' ? "$first:$_" : ($first + $_ - 1) . ':1' } 1 .. 3;
        is "@carriers", "@expected", "$protocol, $name: " . ($name eq 'nothing' ? 'by one connection' : 'by three');
    }
    # At once after the answer, so that it may be there before the connection is idle.
    my @bodies = map { get($port, "/$protocol/foreign")->{body} } 1 .. 20;
    is scalar(grep { /foreign/ } @bodies), 0, "$protocol: no answer is mixed up with another one";
}

# A request meets a connection that the server has closed, and is sent again over a new one, with the numbers of a new one. The
# worker is stopped so that it reads the request first.
SKIP: {
    skip 'needs the module', 1 unless is_ours();
    for my $protocol (sort keys %pass) {
        for my $request (['GET'], ['POST', body => 'x'], ['POST', body => 'x' x 500], ['POST', chunks => ['x' x 10]]) {
            my ($method, @body) = @$request;
            my @earlier = map { get($port, "/$protocol/closing")->{body} } 1, 2;
            my ($carrier) = $earlier[-1] =~ /connection (\d+) request 2$/ or fail "$protocol: two requests on a connection";
            my $client = begin($port, '/nowhere', keep_alive => 1);
            $client->receive;
            my ($worker) = $nginx->workers;
            kill STOP => $worker;
            my $sent = begin($port, "/$protocol/closing", method => $method, @body, over => $client->{socket});
            sleep 0.3;
            kill CONT => $worker;
            my $answer = $sent->finish;
            is "$answer->{status} $answer->{body}", '200 connection ' . ($carrier + 1) . ' request 1',
                "$protocol: $method @{[ map { ref ? 'in chunks' : $_ =~ /^x/ ? length : $_ } @body ]} on a stale connection";
            sleep 0.2;
        }
    }
}

$nginx->stop;
done_testing;
