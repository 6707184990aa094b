# The directive `http2` of an upstream: what is rejected, with file and line, what is accepted, and what nginx -t warns of.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $nginx = Keepalive::Nginx->new(http => '');

sub verdict { $nginx->verdict(@_) }

sub upstream { "upstream u {\n    server 127.0.0.1:1;\n" . join('', map { "    $_\n" } @_) . "}\n" }

# Each case: the expected message, and the invalid line after the lines before it.
my $value     = 'invalid value "%s" in "http2" directive, it must be "on", "off" or "auto"';
my $arguments = 'invalid number of arguments in "http2" directive';
my $parameters = 'it must be "streams=number" or "connections=number"';
my %most      = (streams => 65536, connections => 1024);
my $number    = sub { sprintf 'invalid value "%s", it must be a number from 1 to %d', $_[0], $most{ $_[0] =~ /(\w+)/ ? $1 : '' } };
my $duplicate = '"http2" directive is duplicate';
my @refused = (
    [$arguments, 'http2;'],
    [$arguments, 'http2 on streams=1 connections=1 streams=1;'],
    (map { [sprintf($value, $_), "http2 $_;"] } qw(x yes 1 On OFF h2 h2c streams=1)),
    [sprintf($value, ''), 'http2 "";'],
    (map { my $mode = $_; map { [$number->($_), "http2 $mode $_;"] }
        qw(streams=0 streams=-1 streams=x streams=1k streams=1.5 streams=65537 streams=99999999999999999999 streams=4294967297),
        qw(streams= connections=0 connections=1025 connections=x connections=) } qw(on auto)),
    [$number->('streams= 1'), 'http2 on "streams= 1";'],
    (map { [qq(invalid parameter "$_", $parameters), "http2 on $_;"] } qw(x 10 on local stream=1 Streams=1 streams:1 streams connection=1 timeout=1s)),
    [qq(invalid parameter "", $parameters), 'http2 on "";'],
    [qq(invalid parameter "streams=1", "off" takes no parameters), 'http2 off streams=1;'],
    [qq(invalid parameter "connections=1", "off" takes no parameters), 'http2 off connections=1;'],
    [qq(duplicate parameter "streams=2"), 'http2 on streams=1 streams=2;'],
    [qq(duplicate parameter "connections=1"), 'http2 auto connections=1 connections=1;'],
    [$duplicate, 'http2 on;', 'http2 on;'],
    [$duplicate, 'http2 off;', 'keepalive 4;', 'http2 auto streams=1;'],
    ['"http2" directive is incompatible with "ntlm"', 'ntlm;', 'http2 on;'],
    ['"http2" directive is incompatible with "ntlm"', 'keepalive 4;', 'ntlm;', 'http2 auto streams=1;'],
    ['"ntlm" directive is incompatible with "http2"', 'http2 on;', 'ntlm;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    my ($accepted, $said) = verdict(upstream(@lines));
    ok !$accepted, "refused: @lines";
    is $said, qq($says in "$lines[-1]"), "with its message: @lines";
}

# Accepted, and without a word.
my @servers = ('keepalive 4;', 'keepalive 4 local;', 'keepalive 4 per_server;', 'zone u 64k; keepalive 4;', 'least_conn; keepalive 4;');
for my $line (map { "http2 $_;" } qw(on off auto), 'on streams=1', 'auto streams=65536', 'on connections=1', 'on connections=1024',
    'on streams=128 connections=1', 'auto connections=4 streams=1000') {
    for my $lines (map { ([$_, $line], [$line, $_]) } @servers) {
        my ($accepted, $said) = verdict(upstream(@$lines));
        ok $accepted && $said eq '', "accepted: @$lines" or diag $said;
    }
}
for my $lines (['http2 off;'], ['keepalive 0;', 'http2 off;'], ['ntlm;', 'http2 off;', 'keepalive 4;'], ['http2 off;', 'ntlm;', 'keepalive 4;']) {
    my ($accepted, $said) = verdict(upstream(@$lines));
    ok $accepted && $said eq '', "accepted: @$lines" or diag $said;
}

# An upstream that keeps no connections.
my $has_default = version_at_least('1.29.7');
for my $lines (['http2 on;', 'keepalive 0;'], ['keepalive 0;', 'http2 auto;'], ['queue 1;', 'http2 on;', 'server 127.0.0.1:2 max_conns=1;']) {
    my ($accepted, $said) = verdict(upstream(@$lines), qr/warn/);
    my $warns = !$has_default || "@$lines" =~ /keepalive/;
    ok $accepted, "accepted: @$lines";
    is $said =~ /"http2" in upstream "u" will never be used: it has (no "keepalive"|"keepalive 0") in "upstream u \{"$/m ? 1 : 0, $warns ? 1 : 0, 'with a warning if there is no pool'
        or diag $said;
}

# In http and server the name is nginx's own, if this nginx has it, and independent of ours. The module is loaded first.
for my $http ("http2 on;\n", "server {\nlisten 127.0.0.1:1;\nhttp2 on;\n}\n", "server {\nlisten 127.0.0.1:1;\nlocation / {\nhttp2 on;\n}\n}\n") {
    my $title = $http =~ s{\s+}{ }gr;
    my @ours = verdict($http);
    $nginx->configure(module => 0);
    my @stock = verdict($http);
    $nginx->configure(module => 1);
    if ($stock[1] =~ /unknown directive "http2"/) {
        like $ours[1], qr/"http2" directive is not allowed here/, "unknown to this nginx, and not ours: $title";
    }
    else {
        is_deeply \@ours, \@stock, "nginx's own: $title";
    }
    my ($accepted, $said) = verdict($http . upstream('keepalive 4;', 'http2 on streams=7;'));
    is $accepted, $ours[0], "the same beside one in an upstream: $title" or diag $said;
}

# An event method for which it is not possible.
sub with_events {
    my ($events, $http, $is_last) = @_;
    my @parts = ("events {\n$events\n}\n", "http {\n$http}\n");
    $nginx->configure(text => join('', "load_module x;\nuser root;\npid /run/nginx.pid;\n", $is_last ? reverse @parts : @parts));
    return $nginx->test;
}
my $warning = qr/\[warn\].* "http2" in upstream "u" needs the event method epoll or kqueue, and not (\w+); each connection carries one request at a time$/m;
for my $is_last (0, 1) {
    my $where = $is_last ? 'after http' : 'before http';
    for my $method (qw(poll select)) {
        my ($accepted, $said) = with_events("use $method;", upstream('keepalive 4;', 'http2 on;'), $is_last);
        SKIP: {
            skip "this nginx has no $method", 2 if $said =~ /invalid event type/;
            ok $accepted, "$method, $where: accepted" or diag $said;
            is $said =~ $warning ? $1 : $said, $method, 'with a warning';
        }
        ($accepted, $said) = with_events("use $method;", upstream('keepalive 4;', 'http2 off;') , $is_last);
        unlike $said, qr/warn/, "$method, $where: no warning if it is off";
    }
    my ($accepted, $said) = with_events('use epoll;', upstream('keepalive 4;', 'http2 on;'), $is_last);
    ok $accepted && $said !~ /warn/, "epoll, $where: no warning" or diag $said;
    ($accepted, $said) = with_events('', upstream('keepalive 4;', 'http2 on;'), $is_last);
    ok $accepted && $said !~ /warn/, "the default method, $where: no warning" or diag $said;
}

done_testing;
