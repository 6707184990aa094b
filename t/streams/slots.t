# http2 with max_conns: carriers hold slots too. One without streams gives up its slot for any request that cannot use it, and the slots
# do not drift, however many requests find no stream, no slot and no place in the queue.
#
# faults: F12.2 "after all this, three run at a time" "and no fourth one"
# faults: F13.1 "no place to wait: the status of queue"
# faults: F4.2 "no server is taken for failed"
# faults: F10.1 "another local address: an idle carrier gives up its slot"
# faults: F17.3 "another worker: an idle carrier gives up its slot"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my $server = Keepalive::Streams->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my ($first, $second) = map { 'server ' . $server->address($_) } 0, 1;
my $port = free_port();
my $few = 'keepalive 8; http2 on streams=1 connections=1; queue 1 timeout=20s;';
my %upstream = (
    one   => "$first max_conns=1 max_fails=0; keepalive 8; http2 on;",
    two   => "$first max_conns=100; $second max_conns=100; $few",
    three => "$first max_conns=3 max_fails=0; $few",
);
my ($ordinary, $auto) = ('', '');
if (has_feature('with-http_ssl_module')) {
    $ordinary = Keepalive::Streams->start(tls => 1, alpn => 'http/1.1');
    $upstream{ordinary} = 'server ' . $ordinary->address . ' max_conns=1 max_fails=0; keepalive 8; http2 auto;';
    $auto = 'location /ordinary { proxy_bind $arg_from; proxy_pass https://ordinary; }';
}
my $blocks = join '', map { "upstream $_ { $upstream{$_} }\n" } sort keys %upstream;
my $locations = join '', map { "location /$_ { proxy_bind \$arg_from; proxy_pass http://$_; }\n" } grep { !/ordinary/ } sort keys %upstream;
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
proxy_connect_timeout 3s;
$blocks
server {
    listen 127.0.0.1:$port;
    location = /settled { return 200; }
    location /upgrade { proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection "upgrade"; proxy_pass http://one; }
    $locations
    $auto
}
END

sub anew { afresh($port, $server) }

# Requests one after the other: their statuses.
sub in_turn { join ' ', map { get($port, $_)->{status} } @_ }

# So many requests are on their way, on all listeners together.
sub are_open {
    my ($number) = @_;
    return wait_for { $number == $server->http2(0)->{open} + $server->http2(1)->{open} };
}

# One slot, and a carrier that has it.
{
    is in_turn(map { '/one?from=127.0.0.' . (2 + $_ % 2) } 1 .. 8), join(' ', (200) x 8),
        'another local address: an idle carrier gives up its slot';
    is get($port, '/one')->{status}, 200, 'a request without one';
    my $request = begin($port, '/upgrade?upgrade=1', keep_alive => 1, headers => ['Upgrade: echo', 'Connection: upgrade']);
    like $request->receive, qr{^HTTP/1\.1 101 }, 'an upgrade: an idle carrier gives up its slot';
    $request->abort;
    wait_for { $server->stats->{open} == 0 } or die 'the connection stays open';
    is get($port, '/one')->{status}, 200, 'a request after it';
    my $long = begin($port, '/one?delay=1000');
    are_open(1) or die 'no stream';
    isnt get($port, '/one?from=127.0.0.2')->{status}, 200, 'one with a stream does not';
    is $long->finish->{status}, 200, 'and the stream ends well';
}

SKIP: {
    skip 'nginx has no TLS', 2 unless $ordinary;
    is in_turn(map { '/ordinary?from=127.0.0.' . (2 + $_ % 2) } 1 .. 8), join(' ', (200) x 8),
        'auto, the server has HTTP/1.1 only: idle connections give up their slots';
    is scalar($ordinary->carriers), 0, 'auto: none was a carrier';
}

# Two servers with one stream each, and one place to wait.
{
    anew();
    my @running = map { begin($port, "/two?delay=1500&n=$_") } 1 .. 2;
    ok are_open(2), 'two run';
    my $waiting = begin($port, '/two?n=3');
    settle($port);
    is statuses(map { get($port, "/two?n=$_") } 4 .. 6), '502 x 3', 'no place to wait: the status of queue';
    is statuses(@running, $waiting), '200 x 3', 'the others are answered';
    is statuses(map { get($port, "/two?n=$_") } 7 .. 10), '200 x 4', 'and so are the next ones';
    is join(' ', map { $server->stats($_)->{requests} > 2 ? 1 : 0 } 0, 1), '1 1', 'by both servers';
}

# Three slots, of which one is in use while others find no place.
anew();
for my $round (1 .. 6) {
    my $running = begin($port, '/three?delay=300&from=127.0.0.2');
    ok are_open(1), "round $round: one runs";
    my $waiting = begin($port, '/three?from=127.0.0.2&n=2');
    settle($port);
    is statuses(map { get($port, "/three?from=127.0.0.2&n=$_") } 3 .. 6), '502 x 4', "round $round: four find no place";
    begin($port, '/three?delay=5000&from=127.0.0.3')->abort for 1 .. 2;
    is statuses($running, $waiting), '200 x 2', "round $round: two are answered";
}
# Over the carriers that there are, over others that take their slots, and over new ones.
for my $over ('the same carriers', 'others', 'new ones') {
    anew() if $over eq 'new ones';
    are_open(0) or die 'streams stay';
    my $begins = $over eq 'others' ? 5 : 2;
    my @running = map { begin($port, "/three?delay=1000&from=127.0.0.$_") } $begins .. $begins + 2;
    ok are_open(3), "after all this, three run at a time, over $over";
    my $waiting = begin($port, '/three?from=127.0.0.9');
    settle($port);
    is statuses(map { get($port, '/three?from=127.0.0.' . (10 + $_)) } 1, 2), '502 x 2', 'two find no place';
    is statuses(@running, $waiting), '200 x 4', 'the one that waits is answered';
    is $server->http2->{max_open}, 3, 'and no fourth one';
}
my @disabled = grep { /temporarily disabled/ } split /\n/, $nginx->error_log;
is @disabled, 0, 'no server is taken for failed' or diag @disabled;
$nginx->stop;

# Two workers, and one slot for both.
{
    my $nginx = Keepalive::Nginx->new(workers => 2, http => <<"END")->start;
$proxy_keepalive
proxy_connect_timeout 3s;
upstream shared { zone shared 256k; server @{[ $server->address ]} max_conns=1 max_fails=0; keepalive 8; http2 on; }
server {
    listen 127.0.0.1:$port reuseport;
    location = /pid { return 200 \$pid; }
    location / { proxy_pass http://shared; }
}
END
    my @connections = map { connections_to($port, $_, 4) } $nginx->workers;
    my @in_turn = map { @connections[$_, $_ + 4] } 0 .. 3;
    is statuses(map { get($port, '/', over => $_) } @in_turn), '200 x 8', 'another worker: an idle carrier gives up its slot';
    $nginx->stop;
}
$server->rules_are_kept;
done_testing;
