# http2: what a server has not processed (REFUSED_STREAM, GOAWAY, a connection that ended before the request was written) is sent
# again at once, whatever its method; everything else as on other connections. GOAWAY is no failure of the server.
#
# faults: F6.4 "refused once: answered" "GOAWAY below the request: answered" "GOAWAY below some of fifty: all are answered"
# faults: F6.4 "no server is taken for failed"
# faults: F1.2 "GOAWAY while idle: the next POST is answered"
# faults: F3.2 "a large body that was not kept: it fails"
# faults: F17.3 "what one server refuses, the other one answers"
# faults: F22.1 "GOAWAY below the request: answered" "GOAWAY, last=$last: each by a new connection" "GOAWAY twice: all are answered"
# faults: F22.1 "no server is taken for failed" "no failure"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

# Each server has the two listeners of one upstream.
my $server = Keepalive::Streams->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my $port = free_port();
my %inside = (one => "server @{[ $server->address ]};", both => join(' ', map { 'server ' . $server->address($_) . ';' } 0, 1),
    # The second one for those that the first one refuses.
    told => join(' ', map { 'server ' . $server->address($_) . ' fail_timeout=60s;' } 0, 1) . ' keepalive_stale_fails on;',
    backup => "server @{[ $server->address ]}; server @{[ $server->address(1) ]} backup;");
my %location = (translated => '', unbuffered => 'proxy_request_buffering off;');
$location{frames} = 'proxy_http_version 2;' if version_at_least('1.29.4');
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %inside) {
    $upstreams .= "upstream $name { $inside{$name} keepalive 8; http2 on; }\n";
    $locations .= "location /$_/$name { $location{$_} proxy_pass http://$name; }\n" for sort keys %location;
}
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
client_max_body_size 10m;
client_body_buffer_size 64k;
$upstreams
log_format streams '\$upstream_http2_stream';
server {
    listen 127.0.0.1:$port;
    add_header X-Streams \$upstream_http2_stream;
    access_log @{[ work_dir() ]}/streams.log streams;
    location = /settled { access_log off; return 200; }
    $locations
}
END

# The variable in the last line of the log.
sub stream_in_log {
    open my $in, '<', work_dir() . '/streams.log' or die $!;
    my @lines = <$in>;
    chomp @lines;
    return $lines[-1];
}

my $serial = 0;

# Begins with no connection, and everything counted anew.
sub anew {
    $server->drop;
    wait_for { !grep { $server->stats($_)->{open} } 0, 1 } or die 'connections stay open';
    settle($port);
    $server->reset;
}

my %post = (method => 'POST', body => 'x' x 1000);

# A request with this script, and what became of it: its status, and how often a server has acted on it.
sub outcome {
    my ($path, @options) = @_;
    my $answer = get($port, "$path&id=" . ++$serial, @options ? @options : %post);
    my @stats = map { $server->stats($_) } 0, 1;
    my ($ids, $again) = map { my $name = $_; $stats[0]{$name} + $stats[1]{$name} } qw(ids ids_again);
    $server->reset;
    return "$answer->{status}, " . ($ids + $again) . ' times';
}

for my $kind (sort keys %location) {
    my $one = "/$kind/one";

    # Of a body that is not buffered nginx keeps what came with the header.
    my @large = $kind eq 'unbuffered' ? () : map { [method => 'POST', body => 'x' x $_] } 60_000, 300_000;
    for my $request ([%post], [method => 'GET'], [method => 'DELETE'], [method => 'POST', chunks => [('x' x 100) x 5]], @large) {
        my ($method, $size) = ($request->[1], ref $request->[3] ? 'chunks' : length($request->[3] // ''));
        for my $fault ('refuse', 'goaway', 'goaway&code=11', 'goaway&then=close') {
            my $title = $fault =~ /refuse/ ? 'refused once: answered' : 'GOAWAY below the request: answered';
            for my $warm (0, 1) {
                anew();
                get($port, $one) if $warm;
                is outcome("$one?fault=$fault&times=1", @$request), '200, 1 times',
                    "$kind, $title, $method $size, $fault, on a " . ($warm ? 'used' : 'new') . ' connection';
            }
        }
    }

    # Each attempt has its own stream.
    anew();
    is get($port, $one)->{headers}{'x-streams'}, '1', "$kind: the number of the first stream";
    is get($port, "$one?fault=refuse&times=1&id=stream", %post)->{headers}{'x-streams'}, '3, 1', "$kind: those of two attempts, the second one on a new connection";
    ok wait_for { stream_in_log() eq '3, 1' }, "$kind: and in the log";

    # All of it was refused: it ends, soon.
    anew();
    is outcome("$one?fault=refuse"), '502, 0 times', "$kind, refused always: it fails";
    anew();
    get($port, "$one?fault=refuse", %post);
    cmp_ok $server->requests, '<=', 4, "$kind, refused always: after a few tries";
    is outcome("/$kind/backup?fault=refuse&only=0"), '200, 1 times', "$kind, what one server refuses, the other one answers";

    # Other reasons say nothing.
    for my $fault ('reset&code=8', 'reset&code=2', 'reset&code=11&at=request', 'goaway&last=at&code=2&then=close', 'close&at=request') {
        anew();
        is outcome("$one?fault=$fault&times=1") =~ s/, \d+ times//r, '502', "$kind, $fault: a POST is not sent again";
        cmp_ok $server->requests, '<=', 1, "$kind, $fault: it came once";
    }

    # The connection ends before the server has said anything. The request may have been written by then.
    for my $accept (qw(close abort http1)) {
        anew();
        $server->behave("accept=$accept&times=1");
        my $outcome = outcome("$one?a=b");
        like $outcome, qr/^(?:200, 1|502, 0) times$/, "$kind, $accept before SETTINGS: a POST: $outcome";
    }

    # Many at a time: those above the last stream are sent again, those below are answered where they are.
    for my $fault ('fault=refuse', 'fault=goaway', 'fault=goaway&last=at', 'fault=goaway&last=max&then=hang') {
        anew();
        get($port, $one);
        my @requests = map {
            my $script = $_ % 10 == 5 ? "$fault&times=1" : 'a=b';
            begin($port, "$one?$script&delay=100&id=" . ++$serial, %post);
        } 1 .. 50;
        is statuses(@requests), '200 x 50', "$kind, " . ($fault =~ /=goaway$/ ? 'GOAWAY below some of fifty: all are answered'
            : "$fault, some of fifty: all are answered");
        my $stats = $server->stats;
        is "$stats->{ids}, $stats->{ids_again}", '50, 0', "$kind, $fault, fifty: each once";
        is scalar(grep { $_->{open} } $server->carriers), 0, "$kind, $fault, fifty: no stream is left";
    }

    # GOAWAY that lets the request pass, and no new ones.
    anew();
    for my $last (qw(at max)) {
        my @answers = map { get($port, "$one?fault=goaway&last=$last&then=hang", %post) } 1 .. 4;
        is join(' ', map { $_->{status} } @answers), '200 200 200 200', "$kind, GOAWAY, last=$last: each is answered";
        my %carriers = map { ($_->{headers}{'x-connection'} => 1) } @answers;
        is scalar keys %carriers, 4, "$kind, GOAWAY, last=$last: each by a new connection";
    }
    # First without a limit, then with one, as servers do that end gracefully.
    anew();
    my $frames = frames(frame('GOAWAY', '', 0, pack 'NN', 0x7fffffff, 0), frame('PING', '', 0, 'p' x 8));
    my @requests = map {
        begin($port, "$one?delay=200&id=" . ++$serial . ($_ == 3 ? "&$frames&then=answer" : ''), %post);
    } 1 .. 6;
    sleep 0.1;
    $server->goaway;
    is statuses(@requests), '200 x 6', "$kind, GOAWAY twice: all are answered";
    is join(' ', @{ $server->stats }{qw(ids ids_again)}), '6 0', "$kind, GOAWAY twice: each once";

    # While it is idle.
    anew();
    for my $round (1 .. 5) {
        get($port, $one);
        $server->goaway;
        is outcome("$one?a=b"), '200, 1 times', "$kind, GOAWAY while idle: the next POST is answered";
    }

    # A body that nginx has not kept, refused when part of it has been sent.
    next unless $kind eq 'unbuffered';
    anew();
    is outcome("$one?fault=refuse&times=1&credit=nothing&after=200", method => 'POST', body => 'x' x 1_000_000), '502, 0 times',
        "$kind, a large body that was not kept: it fails";
    is outcome("$one?a=b"), '200, 1 times', "$kind, and the next one is answered";
}

# A server that ends each connection after a number of requests, and one that does so while others are on their way.
for my $limit (1000, 10) {
    anew();
    $server->behave("requests=$limit&streams=100");
    my %statuses;
    for my $round (1 .. 10) {
        my @requests = map { begin($port, '/translated/one?a=b&id=' . ++$serial, %post) } 1 .. 500;
        $statuses{ statuses(@requests) }++;
    }
    is_deeply \%statuses, { '200 x 500' => 10 }, "a server that ends connections after $limit requests: no failure" or diag explain \%statuses;
    is join(' ', @{ $server->stats }{qw(ids ids_again)}), '5000 0', "$limit requests: each came once";
    cmp_ok $server->stats->{accepted}, '>=', 5000 / $limit, "$limit requests: over several connections";
}

# Two servers take turns, though one of them refuses and leaves again and again.
anew();
for my $fault ('refuse', 'goaway', 'goaway&last=at') {
    my @requests = map { begin($port, "/translated/both?fault=$fault&only=0&from=2&delay=5&id=" . ++$serial, %post) } 1 .. 200;
    is statuses(@requests), '200 x 200', "two servers, $fault: all are answered";
}
cmp_ok $server->stats(1)->{ids}, '>=', 200, 'the other one has its share';

# Connections that end while requests are on them are failures of the servers only if that is asked for.
for my $case ([both => 0], [told => 1]) {
    my ($name, $fails) = @$case;
    anew();
    get($port, "/translated/$name") for 1 .. 2;
    # The server closes the connection that has answered before, and answers over the next one.
    get($port, "/translated/$name?fault=close&at=request&times=1&only=$_") for 0, 1;
    my $is_down = grep { m{temporarily disabled} && m{/translated/$name} } split /\n/, $nginx->error_log;
    is $is_down > 0 ? 1 : 0, $fails, "$name: a carrier that ends is " . ($fails ? 'a failure' : 'no failure') . ' of its server';
}

my @disabled = grep { /temporarily disabled/ && /\/both\b/ } split /\n/, $nginx->error_log;
is @disabled, 0, 'no server is taken for failed' or diag @disabled;
$server->rules_are_kept;
$nginx->stop;
done_testing;
