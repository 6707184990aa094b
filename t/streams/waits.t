# http2: requests that wait for a stream, in the queue if there is one, end with the status of the queue. Servers are not taken for
# failed because their streams are all in use. Carriers without streams make room when the worker runs out of connections, and are
# closed when their servers leave.
#
# faults: F13.2 "queue full: the status of queue" "queue timeout: the status of queue"
# faults: F15.1 "a carrier without streams makes room"
# faults: F17.3 "the carrier to the server that left is closed" "a stream to a server that left goes on"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my $has_resolve = version_at_least('1.27.3');
my $shared_port = free_port();
my $server = Keepalive::Streams->start(listen => ['127.0.0.1:0', "127.0.0.1:$shared_port", "127.0.0.2:$shared_port"]);
my $one = 'server ' . $server->address;
my $few = 'keepalive 4; http2 on streams=1 connections=1;';
my $names = Keepalive::Names->start('127.0.0.1', '127.0.0.2');
my $port = free_port();
my %upstream = (
    plain    => "$one max_fails=1 fail_timeout=60s; $few",
    status   => "$one max_fails=1 fail_timeout=60s; queue 2 timeout=300ms status=503; $few",
    ordinary => "$one max_fails=1 fail_timeout=60s; queue 2 timeout=300ms; $few",
    late     => "$one max_fails=1 fail_timeout=60s; queue 2 timeout=300ms status=504; $few",
);
$upstream{resolved} = "zone resolved 64k; server servers.test:$shared_port resolve; keepalive 16; keepalive_timeout 600s; http2 on;"
    if $has_resolve;
my $blocks = join '', map { "upstream $_ { $upstream{$_} }\n" } sort keys %upstream;
my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %upstream;
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;
$proxy_keepalive
proxy_connect_timeout 2s;
$blocks
server { listen 127.0.0.1:$port; $locations }
END
$nginx->allow(qr/upstream queue is full|upstream queue timed out|upstream timed out/);

# One stream is in use, and others wait.
for my $case ([ordinary => 502], [status => 503], [late => 504]) {
    my ($name, $expected) = @$case;
    is get($port, "/$name")->{status}, 200, "$name: it answers";
    my $first = begin($port, "/$name?delay=1200");
    wait_for { $server->http2->{open} == 1 } or die 'no stream';
    my $begun = time;
    my @others = map { begin($port, "/$name?n=$_") } 1 .. 2;
    sleep 0.05;
    my $third = get($port, "/$name?n=3");
    is $third->{status}, $expected, "$name, queue full: the status of queue";
    cmp_ok time - $begun, '<', 0.3, "$name, queue full: at once";
    is statuses(@others), "$expected x 2", "$name, queue timeout: the status of queue";
    my $took = time - $begun;
    ok $took >= 0.3 && $took < 1, "$name, queue timeout: after its time";
    is $first->finish->{status}, 200, "$name: the stream has ended well";
    is statuses(map { begin($port, "/$name?delay=20&n=$_") } 1 .. 3), '200 x 3', "$name: nothing is lost, and the server is in service";
}
# Without a queue, as long as connecting may take.
{
    is get($port, '/plain')->{status}, 200, 'plain: it answers';
    my $first = begin($port, '/plain?delay=4000');
    wait_for { $server->http2->{open} == 1 } or die 'no stream';
    my $begun = time;
    is get($port, '/plain', timeout => 5)->{status}, 504, 'without a queue: 504';
    cmp_ok time - $begun, '>', 1.9, 'without a queue: after proxy_connect_timeout';
    is $first->finish->{status}, 200, 'without a queue: the stream has ended well';
    is get($port, '/plain')->{status}, 200, 'without a queue: the server is in service';
}
unlike $nginx->error_log, qr/will never be used/, 'a queue makes sense without max_conns';
my @disabled = grep { /temporarily disabled/ } split /\n/, $nginx->error_log;
is @disabled, 0, 'no server is taken for failed' or diag @disabled;

SKIP: {
    skip 'nginx has no resolve in upstreams before 1.27.3', 6 unless $has_resolve;
    my $open = sub { join ' ', map { $server->stats($_)->{open} } 1, 2 };
    ok wait_for { get($port, '/resolved')->{status} == 200 }, 'the name is resolved';
    is statuses(map { begin($port, "/resolved?delay=50&n=$_") } 1 .. 8), '200 x 8', 'both servers answer';
    is $open->(), '1 1', 'a carrier to each';
    my @slow = map { begin($port, "/resolved?delay=4000&n=$_") } 1 .. 2;
    wait_for { $server->http2(1)->{open} && $server->http2(2)->{open} } or die 'no streams';
    $names->now_at('127.0.0.2');
    is statuses(@slow), '200 x 2', 'a stream to a server that left goes on';
    ok wait_for { get($port, '/resolved'); $open->() eq '0 1' }, 'the carrier to the server that left is closed';
    $names->now_at('127.0.0.1');
    ok wait_for { get($port, '/resolved'); $open->() eq '1 0' }, 'the idle carrier to the server that left is closed';
}
$nginx->stop;

# The worker runs out of connections.
{
    my @servers = map { Keepalive::Streams->start } 1 .. 16;
    my $blocks = join '', map { 'upstream u' . $_ . ' { server ' . $servers[$_]->address . "; keepalive 4; http2 on; }\n" } 0 .. $#servers;
    my $locations = join '', map { "location /$_/ { proxy_pass http://u$_; }\n" } 0 .. $#servers;
    my $nginx = Keepalive::Nginx->new(connections => 24, http => <<"END")->start;
$proxy_keepalive
$blocks
server { listen 127.0.0.1:$port; $locations }
END
    for my $round (1 .. 3) {
        my @statuses = map { get($port, "/$_/")->{status} } 0 .. $#servers;
        is "@statuses", join(' ', (200) x @servers), "a carrier without streams makes room, round $round";
    }
    my $open = 0;
    $open += $_->stats->{open} for @servers;
    ok $open > 2 && $open < 24, "$open carriers are open";
    $nginx->stop;
}

$server->rules_are_kept;
done_testing;
