# http2: a client that reads nothing, a slow one, and an upload that the server does not read, stop their own streams only. Small
# requests beside them over the same connection take hardly longer, and no window is lost for good. Small frames are sent at once, and
# uploads that were answered early and send nothing more stop no other one.
#
# faults: F9.4 "those who have left cost no window"
# faults: F8.1 "other uploads arrive"
# faults: F22.3 "downloads that nobody reads" "uploads that nobody reads at all" "a slow client has its answer"
# faults: F22.3 "an upload beside five that were answered early"
# faults: F22.4 "those who have left cost no window: a large answer" "and a large upload"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my $server = Keepalive::Streams->start;
my $port = free_port();
my %pass = (translated => '');
$pass{frames} = 'proxy_http_version 2;' if version_at_least('1.29.4');
my $locations = join '', map { "location /$_ { $pass{$_} proxy_pass http://u; }\n"
    . "location /$_/upload { $pass{$_} proxy_request_buffering off; proxy_pass http://u; }\n"
    . "location /$_/unbuffered { $pass{$_} proxy_buffering off; proxy_pass http://u; }\n" } sort keys %pass;
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
proxy_max_temp_file_size 0;
client_max_body_size 100m;
client_body_buffer_size 64k;
upstream u { server @{[ $server->address ]}; keepalive 4; keepalive_requests 100000; http2 on connections=1; }
server {
    listen 127.0.0.1:$port;
    keepalive_requests 100000;
    location = /settled { return 200; }
    $locations
}
END
my ($worker) = $nginx->workers;

# How long a thousand small requests take, one after the other, in milliseconds: the time that 1 % of them exceed. And how many
# of them were not answered.
sub small_ones {
    my ($path, %options) = @_;
    my (@took, $connection);
    my $failed = 0;
    for (1 .. 1000) {
        my $begun = time;
        my $request = begin($port, $path, %options, keep_alive => 1, over => $connection);
        $connection = $request->{socket};
        my $answer = Keepalive::Client::parse($request->receive);
        push @took, 1000 * (time - $begun);
        $failed++ if $answer->{status} != 200;
    }
    return ((sort { $a <=> $b } @took)[989], $failed);
}

# Begins with a new connection.
sub anew {
    $server->drop;
    wait_for { !$server->stats->{open} } or die 'connections stay open';
    settle($port);
    $server->reset;
}

# A request whose answer is read by so many bytes each time.
sub slow_reader {
    my ($path, $socket_buffer) = @_;
    my $request = begin($port, $path, timeout => 30);
    return sub {
        sysread $request->{socket}, my $bytes, $_[0] // 4096;
        return length($bytes // '');
    };
}

my %post = (method => 'POST', body => 'x' x 500);

for my $kind (sort keys %pass) {
    # What others do meanwhile.
    my %others = (
        'downloads that nobody reads' => sub { map { begin($port, "/$kind?len=15000000&n=$_") } 1 .. 3 },
        'the same, not buffered' => sub { map { begin($port, "/$kind/unbuffered?len=15000000&n=$_") } 1 .. 3 },
        'uploads that nobody reads' => sub {
            map { begin($port, "/$kind/upload?credit=connection&fault=hang&n=$_", method => 'POST', content_length => 5_000_000) } 1 .. 3;
        },
        'uploads that nobody reads at all' => sub {
            map { begin($port, "/$kind/upload?credit=nothing&fault=hang&n=$_", method => 'POST', content_length => 5_000_000) } 1 .. 3;
        },
        'answers that come slowly' => sub { map { begin($port, "/$kind?len=1000&drip=100&pieces=60&n=$_") } 1 .. 50 },
    );
    for my $other (sort keys %others) {
        anew();
        my ($alone, $failed) = small_ones("/$kind?body=ok");
        my @requests = $others{$other}->();
        if ($other =~ /^uploads/) {
            for my $request (@requests) {
                $request->{socket}->blocking(0);
                $request->more('u' x 2_000_000);
            }
        }
        sleep 0.5;
        (my $beside, $failed) = small_ones("/$kind?body=ok");
        is $failed, 0, "$kind, $other: all small requests are answered";
        # A busy machine may take a moment at any time.
        cmp_ok $beside, '<=', 2 * $alone + 10, sprintf "%s, %s: 99 %% within %.1f ms, alone %.1f ms", $kind, $other, $beside, $alone;
        if ($other !~ /at all/) {
            is scalar($server->carriers), 1, "$kind, $other: over the same connection";
            ($beside, $failed) = small_ones("/$kind?echo=1", %post);
            is $failed, 0, "$kind, $other: and so are small uploads" . ($other eq 'uploads that nobody reads' ? '' : ', too');
            my $large = get($port, "/$kind?len=3000000&n=last", timeout => 20);
            ok $large->{complete} && length $large->{body} == 3_000_000, "$kind, $other: a large answer";
        }
        my $body = join '', map { "$_," } 1 .. 200_000;
        my $upload = get($port, "/$kind?reflect=1", method => 'POST', body => $body, timeout => 20);
        ok $upload->{status} == 200 && $upload->{body} eq $body, "$kind, $other"
            . ($other =~ /^uploads/ ? ': other uploads arrive' : ': a large upload');
        $_->abort for @requests;
        # Of a client that leaves while nobody takes its upload, nginx does not hear.
        ok wait_for { $server->http2->{open} == 0 }, "$kind, $other: their streams end with them" if $other !~ /^uploads/;
    }

    # A small request while another one waits for its answer. After the first ones of a connection, the kernel of the server acknowledges
    # only after 40 ms what it does not answer. Nagle's algorithm would wait for that.
    anew();
    get($port, "/$kind?body=ok") for 1 .. 200;
    my $median = sub { (sort { $a <=> $b } @_)[@_ / 2] };
    my $in_ms = sub { my $begun = time; get($port, "/$kind?body=ok"); return 1000 * (time - $begun) };
    my $alone = $median->(map { $in_ms->() } 1 .. 11);
    my @took;
    for (1 .. 11) {
        my $other = begin($port, "/$kind?delay=150");
        settle($port);
        push @took, $in_ms->();
        $other->finish;
    }
    my $beside = $median->(@took);
    cmp_ok $beside, '<=', 2 * $alone + 15, sprintf '%s: a small request beside one that waits: within %.1f ms, alone %.1f ms', $kind, $beside, $alone;
    is scalar($server->carriers), 1, "$kind: over the same connection";

    # Answers that come early, and uploads that are not taken any more.
    anew();
    get($port, "/$kind");
    my @early = map { begin($port, "/$kind/unbuffered?early=1&credit=connection&len=2000&drip=1500&n=$_", method => 'POST', body => 'y' x 200_000) }
        1 .. 5;
    ok wait_for { $server->http2->{open} == 5 }, "$kind: five are answered early";
    my @heads = map { $_->receive } @early;
    is scalar(grep { m{^HTTP/1.1 200 } } @heads), 5, "$kind: as their clients see";
    my $third = get($port, "/$kind?echo=1", method => 'POST', body => 'z' x 200_000, timeout => 8);
    is echo_of($third)->{body}, 'body of 200000 bytes, sum ' . sum_of('z' x 200_000), "$kind: an upload beside five that were answered early";
    is $server->http2->{open}, 5, "$kind: they go on";
    $_->abort for @early;
    ok wait_for { $server->http2->{open} == 0 }, "$kind: and end with their clients";

    # A slow client gets all of its answer, while others are served.
    anew();
    my $read = slow_reader("/$kind?len=2000000");
    my ($got, $served) = (0, 0);
    while ((my $more = $read->(65_536)) > 0) {
        $got += $more;
        $served++ if get($port, "/$kind?body=ok")->{status} == 200;
    }
    cmp_ok $got, '>', 2_000_000, "$kind, a slow client has its answer";
    cmp_ok $served, '>=', 20, "$kind, and $served others had theirs meanwhile";

    # Windows that were used for nothing: padding, clients that leave, streams that the server resets, answers that come early.
    anew();
    my $memory = memory_of($worker);
    for my $round (1 .. 60) {
        my @requests = map { begin($port, "/$kind?len=3000000&pad=255&frame=1000&n=$_") } 1 .. 5;
        $_->receive for @requests;
        $_->abort for @requests;
    }
    for my $round (1 .. 60) {
        my @requests = map { begin($port, "/$kind/upload?$_", method => 'POST', body => 'x' x 50_000) }
            'fault=reset&at=request', 'fault=reset&after=5', 'early=reset', 'early=1&status=403', 'fault=refuse&at=request&times=1';
        $_->finish for @requests;
    }
    for my $round (1 .. 60) {
        begin($port, "/$kind/upload", method => 'POST', body => 'x' x 30_000, content_length => 60_000)->abort;
    }
    ok wait_for { $server->http2->{open} == 0 }, "$kind: all of them have ended";
    my $large = get($port, "/$kind?len=10000000", timeout => 20);
    ok $large->{complete} && length $large->{body} == 10_000_000, "$kind: those who have left cost no window: a large answer";
    my $body = 'x' x 5_000_000;
    my $upload = get($port, "/$kind?echo=1", method => 'POST', body => $body, timeout => 20);
    is echo_of($upload)->{body}, 'body of 5000000 bytes, sum ' . sum_of($body), "$kind: and a large upload";
    # A connection whose window is used up when its last stream has ended is not used again. Of the 660 requests, that is so for
    # hardly any, and on a busy machine, where the server returns the window late, for some more.
    cmp_ok scalar($server->carriers), '<=', 40, "$kind: all over few connections";
    memory_is_below(memory_of($worker), $memory + 20_000, "$kind: and the worker has not grown");
    $server->rules_are_kept($kind);
}

is join(' ', $nginx->workers), $worker, 'the worker has lived on';
$nginx->stop;
done_testing;
