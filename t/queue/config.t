# The directive `queue`: what is rejected, with file and line; what causes a warning; what is accepted, in any order.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $nginx = Keepalive::Nginx->new(http => '');

sub verdict { $nginx->verdict(@_) }

sub upstream { "upstream u {\n    server 127.0.0.1:1 max_conns=1;\n" . join('', map { "    $_\n" } @_) . "}\n" }

# Each case: the expected message, and the invalid line after the lines before it.
my $value     = 'invalid value "%s" in "queue" directive, it must be a number from 1 to 4294967294';
my $timeout   = 'it must be a time above 0, such as "timeout=10s"';
my $status    = 'it must be "status=502", "status=503" or "status=504"';
my $parameter = 'it must be "timeout=time" or "status=code"';
my $arguments = 'invalid number of arguments in "queue" directive';
my @refused = (
    [$arguments, 'queue;'],
    (map { [sprintf($value, $_), "queue $_;"] }
        qw(0 00 -1 +1 x 1.5 1k 0x10 on 9223372036854775808 18446744073709551617 99999999999999999999)),
    [sprintf($value, ''), 'queue "";'],
    [sprintf($value, ' 1'), 'queue " 1";'],
    [sprintf($value, '1 '), 'queue "1 ";'],
    (map { [qq(invalid parameter "$_", $parameter), "queue 10 $_;"] }
        qw(x 10 timeout timeoutx status Timeout=1s STATUS=503 max=10 local per_server timeout:1s)),
    [qq(invalid parameter "", $parameter), 'queue 10 "";'],
    (map { [qq(invalid value "timeout=$_", $timeout), "queue 10 timeout=$_;"] }
        qw(0 0s 0ms -1 x 1x s 1.5s 99999999999999999999 99999999999999999999s 9223372036854775807s)),
    [qq(invalid value "timeout=", $timeout), 'queue 10 timeout=;'],
    [qq(invalid value "timeout= ", $timeout), 'queue 10 "timeout= ";'],
    (map { [qq(invalid value "status=$_", $status), "queue 10 status=$_;"] }
        qw(999 0 200 404 429 499 500 501 505 5030 0503 -503 503x x)),
    [qq(invalid value "status=", $status), 'queue 10 status=;'],
    [qq(invalid value "status=503 ", $status), 'queue 10 "status=503 ";'],
    (map { [qq(duplicate parameter "$_"), "queue 10 $_ $_;"] } qw(timeout=1s status=503)),
    [$arguments, 'queue 10 timeout=1s status=503 timeout=1s;'],
    [qq("queue" directive is duplicate), 'queue 10;', 'queue 20;'],
    [qq("queue" directive is duplicate), 'queue 10 timeout=1s;', 'keepalive 4;', 'queue 10 timeout=1s;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    my ($accepted, $said) = verdict(upstream(@lines), 'emerg');
    ok !$accepted, "refused: @lines";
    is $said, qq($says in "$lines[-1]"), "with its message: @lines";
}

# Elsewhere than in `upstream`.
my $place = '"queue" directive is not allowed here in "queue 10;"';
for my $http ("queue 10;\n", "server {\nqueue 10;\n}\n", "server { location / {\nqueue 10;\n} }\n") {
    is_deeply [verdict($http, 'emerg')], ['', $place], 'the wrong place: ' . $http =~ s{\n}{ }gr;
}

# Accepted, and without a word.
for my $line (
    'queue 1;', 'queue 01;', 'queue 10;', 'queue 100000;', 'queue 10 timeout=1;', 'queue 10 timeout=1s;',
    'queue 10 timeout=500ms;', 'queue 10 timeout=1ms;', 'queue 10 timeout=1m30s;', 'queue 10 timeout=1h;',
    (map { ("queue 10 status=$_;", "queue 10 timeout=1s status=$_;", "queue 10 status=$_ timeout=1s;") } 502 .. 504),
    'queue "10" "timeout=1s" "status=503";',
) {
    is_deeply [verdict(upstream($line), '(?:warn|emerg)')], [1, ''], "accepted: $line";
}

# A queue that will never be used is worth a warning, one for each upstream, and no more than that.
my $never = '"queue" in upstream "%s" will never be used: none of its servers has "max_conns"';
for my $case (
    ['no server with max_conns', 'u', 'server 127.0.0.1:1; server 127.0.0.1:2 backup;'],
    ['max_conns=0 is none', 'u', 'server 127.0.0.1:1 max_conns=0;'],
    ['the backup server has it', '', 'server 127.0.0.1:1; server 127.0.0.1:2 backup max_conns=1;'],
    ['one of several has it', '', 'server 127.0.0.1:1; server 127.0.0.1:2 max_conns=1;'],
    ['all have it', '', 'server 127.0.0.1:1 max_conns=2; server 127.0.0.1:2 max_conns=1;'],
    ['all have it, with zone', '', 'zone u 64k; server 127.0.0.1:1 max_conns=2;'],
    ['none has it, with zone', 'u', 'zone u 64k; server 127.0.0.1:1;'],
    ['none has it, with a balancer', 'u', 'least_conn; server 127.0.0.1:1;'],
    ['a unix socket has it', '', 'server unix:/nowhere max_conns=1;'],
) {
    my ($title, $warned, $servers) = @$case;
    for my $lines ("$servers\nqueue 10;", "queue 10;\n$servers") {
        my ($accepted, $said) = verdict("upstream u {\n$lines\n}\n", 'warn');
        ok $accepted, "$title: accepted";
        my $expected = $warned && sprintf $never, $warned;
        is $said, $expected && qq($expected in "upstream u {"), "$title: " . ($warned ? 'with a warning' : 'without a warning');
    }
}
{
    my ($accepted, $said) = verdict(join('', map { "upstream $_ { server 127.0.0.1:1; queue 10; }\n" } qw(a b)), 'warn');
    is join("\n", map { s/ in ".*"$//r } split /\n/, $said), join("\n", map { sprintf $never, $_ } qw(a b)),
        'two such upstreams: two warnings';
    ($accepted, $said) = verdict("upstream u { server 127.0.0.1:1; keepalive 4; }\n", 'warn');
    is $said, '', 'no queue: no warning';
}

# The line may stand anywhere in the block, and means the same.
my $backend = Keepalive::Backend->start;
my $port = free_port();
my $server = 'server ' . $backend->address . ' max_conns=1;';
my $queue = 'queue 1 timeout=10s status=503;';
my %upstreams = (
    a => "$queue $server keepalive 4;",
    b => "$server $queue keepalive 4;",
    c => "$server keepalive 4; $queue",
    d => "$queue least_conn; $server keepalive 4;",
    e => "least_conn; $queue $server keepalive 4;",
    f => "$server keepalive 4; $queue least_conn;",
    g => "$server $queue hash \$uri consistent;",
    h => "$queue zone h 64k; $server random;",
    i => "keepalive 4; $queue ip_hash; zone i 64k; $server",
    j => "$server keepalive 0; $queue",
);
my $running = queue_nginx($port, \%upstreams);
my ($accepted, $said) = $running->test;
unlike $said, qr/\[warn\]/, 'no order of the lines is worth a warning';
$running->start;
for my $name (sort keys %upstreams) {
    $backend->reset;
    my $held = begin($port, "/$name?fault=hang&at=start");
    ok wait_for { $backend->stats->{requests} == 1 }, "$name: one request holds the server";
    my $waits = begin($port, "/$name");
    settle($port);
    is get($port, "/$name")->{status}, 503, "$name: one waits, another has no place";
    $held->abort;
    is $waits->finish->{status}, 200, "$name: the one that waits is served";
}
$running->stop;

done_testing;
