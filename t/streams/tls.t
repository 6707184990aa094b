# http2 with TLS: ALPN decides, with `on` and with `auto`; the connection is verified before anything is sent over it, and no other
# request uses one that was not; one handshake for all that wait for it, one session for the next. What TLS could not send as a whole is
# not sent again in part.
#
# faults: F10.1 "a wrong name, twice: nothing is sent" "a connection that was not verified is not used"
# faults: F18.1 "the session is resumed"
# faults: F2.4 "no POST comes twice"
# faults: F1.1 "a handshake fails: those that wait are answered"

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();
plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my %alpn = (both => 'h2,http/1.1', http1 => 'http/1.1', none => '', last => 'http/1.1,h2');
my %server = map { $_ => Keepalive::Streams->start(tls => 1, alpn => $alpn{$_}) } keys %alpn;
$server{plain} = Keepalive::Streams->start;
my $full = Keepalive::Streams->start(tls => 1, alpn => 'h2', connection => 'streams=1000');
my ($port, $trusted) = (free_port(), $server{both}->certificate);

my ($blocks, $locations) = ('', '');
for my $name (sort keys %server) {
    my $scheme = $name eq 'plain' ? 'http' : 'https';
    for my $mode (qw(on auto)) {
        $blocks .= "upstream ${mode}_$name { server @{[ $server{$name}->address ]} max_fails=0; keepalive 8; http2 $mode; }\n";
        $locations .= "location /$mode/$name { proxy_pass $scheme://${mode}_$name; }\n";
    }
}
my $frames = version_at_least('1.29.4') ? <<'END' : '';
location /frames { proxy_http_version 2; proxy_pass https://on_both; }
END
my $verify = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $trusted; proxy_ssl_server_name on;";
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
$blocks
upstream mixed { server @{[ $server{both}->address ]} max_fails=0; keepalive 8; http2 auto; }
upstream full { server @{[ $full->address ]} max_fails=0; keepalive 8; http2 on streams=1000 connections=1; }
large_client_header_buffers 4 32k;
server {
    listen 127.0.0.1:$port;
    location /full { proxy_pass https://full; }
    location = /settled { return 200; }
    location /right { $verify proxy_ssl_name localhost; proxy_pass https://mixed; }
    location /wrong { $verify proxy_ssl_name other; proxy_pass https://mixed; }
    location /unverified { proxy_ssl_server_name on; proxy_ssl_name \$arg_name; proxy_pass https://mixed; }
    location /no_session { proxy_ssl_session_reuse off; proxy_pass https://on_both; }
    $locations
    $frames
}
END

sub anew {
    my ($server) = @_;
    $server->drop;
    wait_for { !$server->stats->{open} } or die 'connections stay open';
    settle($port);
    $server->reset;
}

# What carries requests: streams, or HTTP/1.1.
sub carried {
    my ($server) = @_;
    my @by = ((map { 'h2' } $server->carriers), map { 'http/1.1' } $server->ordinary);
    return join ' ', @by;
}

# ALPN, for several requests one after the other and at once.
my %expected = (
    'on both' => 'h2', 'on last' => 'h2', 'on plain' => 'h2', 'auto both' => 'h2',
    'auto plain' => 'http/1.1', 'auto http1' => 'http/1.1', 'auto none' => 'http/1.1',
);
for my $case (sort keys %expected) {
    my ($mode, $name) = split ' ', $case;
    my @answers = map { get($port, "/$mode/$name?body=ok", method => $_ % 2 ? 'GET' : 'POST', body => 'x') } 1 .. 4;
    is join(' ', map { "$_->{status} $_->{body}" } @answers), join(' ', ('200 ok') x 4), "$case: requests are answered";
    is carried($server{$name}), $expected{$case}, "$case: over one connection, $expected{$case}";
    my $at_once = statuses(map { begin($port, "/$mode/$name?delay=50&n=$_") } 1 .. 20);
    is $at_once, '200 x 20', "$case: twenty at once are answered";
    my $number = $expected{$case} eq 'h2' ? 1 : 20;
    is scalar(split ' ', carried($server{$name})), $number, "$case: over $number connections";
    anew($server{$name});
}
# Where the server has both, and prefers HTTP/1.1, its choice counts.
get($port, '/auto/last');
like carried($server{last}), qr{^(?:h2|http/1\.1)$}, 'auto last: ' . carried($server{last});

# No HTTP/2 where it must be: an error of the server.
for my $name (qw(http1 none)) {
    anew($server{$name});
    my $before = length $nginx->error_log;
    is statuses(map { begin($port, "/on/$name?n=$_", method => 'POST', body => 'x') } 1 .. 10), '502 x 10', "on $name: requests fail";
    is $server{$name}->requests, 0, "on $name: the server gets none";
    like substr($nginx->error_log, $before), qr/ALPN|HTTP\/2/, "on $name: the log says why";
    get($port, "/auto/$name");
    is $server{$name}->requests, 1, "auto $name: another upstream is not affected";
}

# At the beginning: one handshake for all.
{
    my $server = $server{both};
    anew($server);
    is statuses(map { begin($port, "/on/both?delay=20&n=$_") } 1 .. 80), '200 x 80', 'eighty at once, cold: all are answered';
    cmp_ok $server->stats->{accepted}, '<=', 2, 'with two handshakes at most';
    my ($carrier) = $server->carriers;
    is $carrier->{tls}, 1, 'with TLS';

    # The session.
    anew($server);
    get($port, '/on/both');
    is join(' ', map { $_->{resumed} } $server->carriers), 1, 'the session is resumed';
    anew($server);
    get($port, '/no_session');
    is join(' ', map { $_->{resumed} } $server->carriers), 0, 'unless proxy_ssl_session_reuse is off';

    # A handshake that fails is the failure of one request.
    for my $accept (qw(handshake close abort)) {
        anew($server);
        $server->behave("accept=$accept&times=1");
        my @requests = map { begin($port, "/on/both?delay=20&n=$_", method => 'POST', body => 'x') } 1 .. 30;
        my $statuses = statuses(@requests);
        # The few that are sent before the server has said anything may be lost with the connection.
        my $lost = $statuses =~ /502 x (\d+)/ ? $1 : 0;
        cmp_ok $lost, '<=', $accept eq 'handshake' ? 1 : 10, "$accept: $lost fail";
        like $statuses, qr/^200 x \d+(?:, 502 x \d+)?$/, "$accept: a handshake fails: those that wait are answered";
    }
}

# Verification.
{
    my $server = $server{both};
    anew($server);
    for my $round (1, 2) {
        is get($port, '/wrong')->{status}, 502, 'a wrong name, twice: refused';
    }
    is statuses(map { begin($port, "/wrong?n=$_") } 1 .. 20), '502 x 20', 'twenty at once: refused';
    is $server->requests, 0, 'a wrong name, twice: nothing is sent';
    is get($port, '/right?body=ok')->{body}, 'ok', 'the right name';
    is statuses(map { begin($port, ($_ % 2 ? '/right' : '/wrong') . "?delay=20&n=$_") } 1 .. 20), '200 x 10, 502 x 10',
        'both at once: each as it should be';
    anew($server);
    get($port, '/unverified?name=other');
    is get($port, '/wrong')->{status}, 502, 'a connection that was not verified is not used';
    my $unverified = get($port, '/unverified?name=localhost')->{headers}{'x-connection'};
    isnt get($port, '/right')->{headers}{'x-connection'}, $unverified, 'nor with the right name';
    anew($server);
    get($port, "/unverified?name=$_") for qw(a b a b a);
    my @names = sort map { "$_->{name} $_->{streams}" } $server->carriers;
    is_deeply \@names, ['a 3', 'b 2'], 'each name has a connection of its own';
}

# A server that reads nothing for some time, until the connection takes no more in the middle of what is sent at once. Then it reads all
# of it, and resets the connection before nginx can send the rest. What has come must not be sent again. Headers of several lengths let
# the connection be full in different places.
{
    my ($worker, $number, $stuck) = ($nginx->workers, 500, 0);
    for my $length (10_000, 11_000, 12_000, 13_000, 14_000) {
        anew($full);
        get($port, '/full');
        # The worker gets all requests together.
        my @clients = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) } 1 .. $number;
        settle($port);
        kill STOP => $full->{pid}, $worker;
        my @options = (method => 'POST', body => 'x', timeout => 20, headers => { 'X-Fill' => 'f' x $length });
        my @posts = map { begin($port, "/full?delay=500&n=$_", @options, over => $clients[$_ - 1]) } 1 .. $number;
        kill CONT => $worker;
        settle($port);
        sleep 0.2;
        kill STOP => $worker;
        kill CONT => $full->{pid};
        my ($before, $streams) = (0, 1);
        while ($streams != $before) {
            sleep 0.1;
            ($before, $streams) = ($streams, ($full->carriers)[0]{streams});
        }
        $full->drop('reset');
        wait_for { !$full->stats->{open} } or die 'the connection stays open';
        kill CONT => $worker;
        $stuck++ if $streams <= $number;
        like statuses(@posts), qr/^(?:200 x \d+)?(?:, )?(?:502 x \d+)?$/, "headers of $length bytes: POSTs are answered, or lost with the connection";
        my $came = 0;
        $came += $_->{streams} for $full->carriers;
        cmp_ok $came, '<=', $number + 1, "headers of $length bytes: no POST comes twice";
    }
    note "the connection was full $stuck times";
    $full->rules_are_kept;
}

SKIP: {
    skip 'nginx has no HTTP/2 to servers', 2 unless $frames;
    anew($server{both});
    get($port, '/on/both');
    is statuses(map { begin($port, "/frames?delay=20&n=$_") } 1 .. 20), '200 x 20', 'proxy_http_version 2: twenty at once';
    like carried($server{both}), qr/^h2(?: h2)?$/, 'over one connection, or that of those that are translated';
}

$_->rules_are_kept for values %server;
$nginx->stop;
done_testing;
