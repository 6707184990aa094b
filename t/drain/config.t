# The directive `keepalive_drain`: what is rejected, with file and line, and what is accepted, anywhere in the block.
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
my $value     = 'invalid value "%s" in "keepalive_drain" directive, it must be a size, such as "64k", or "0"';
my $timeout   = 'it must be a time above 0, such as "timeout=10s"';
my $arguments = 'invalid number of arguments in "keepalive_drain" directive';
my $duplicate = '"keepalive_drain" directive is duplicate';
my @refused = (
    [$arguments, 'keepalive_drain;'],
    [$arguments, 'keepalive_drain 1k timeout=1s timeout=1s timeout=1s;'],
    (map { [sprintf($value, $_), "keepalive_drain $_;"] }
        qw(x -1 +1 1x 1kk k m 1.5k 0x10 on off timeout=1s 99999999999999999999 9223372036854775808 9223372036854775807k)),
    [sprintf($value, ''), 'keepalive_drain "";'],
    [sprintf($value, ' 1k'), 'keepalive_drain " 1k";'],
    [sprintf($value, '1k '), 'keepalive_drain "1k ";'],
    (map { [qq(invalid parameter "$_", it must be "timeout=time"), "keepalive_drain 1k $_;"] }
        qw(x 10 1s timeout timeoutx Timeout=1s TIMEOUT=1s timeout:1s size=1k status=503 local)),
    [qq(invalid parameter "", it must be "timeout=time"), 'keepalive_drain 1k "";'],
    (map { [qq(invalid value "timeout=$_", $timeout), "keepalive_drain 1k timeout=$_;"] }
        qw(0 0s 0ms -1 x 1x s 1.5s 1k 99999999999999999999 99999999999999999999s 9223372036854775807s)),
    [qq(invalid value "timeout=", $timeout), 'keepalive_drain 1k timeout=;'],
    [qq(invalid value "timeout= ", $timeout), 'keepalive_drain 1k "timeout= ";'],
    [qq(duplicate parameter "timeout=1s"), 'keepalive_drain 1k timeout=1s timeout=1s;'],
    [qq(duplicate parameter "timeout=2s"), 'keepalive_drain 1k timeout=1s timeout=2s;'],
    [$duplicate, 'keepalive_drain 1k;', 'keepalive_drain 2k;'],
    [$duplicate, 'keepalive_drain 0;', 'keepalive_drain 0;'],
    [$duplicate, 'keepalive_drain 64k timeout=1s;', 'keepalive 4;', 'keepalive_drain 64k timeout=1s;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    my ($accepted, $said) = verdict(upstream(@lines));
    ok !$accepted, "refused: @lines";
    is $said, qq($says in "$lines[-1]"), "with its message: @lines";
}

# Elsewhere than in `upstream`.
my $place = '"keepalive_drain" directive is not allowed here in "keepalive_drain 1k;"';
for my $http ("keepalive_drain 1k;\n", "server {\nkeepalive_drain 1k;\n}\n", "server { location / {\nkeepalive_drain 1k;\n} }\n") {
    is_deeply [verdict($http)], ['', $place], 'the wrong place: ' . $http =~ s{\n}{ }gr;
}

# Accepted, and without a word.
for my $line (
    (map { "keepalive_drain $_;" } qw(0 0k 1 01 1000 1k 1K 64k 1m 1M 16m 1g), '"64k" "timeout=1s"'),
    (map { "keepalive_drain 64k timeout=$_;" } qw(1 1ms 200ms 1s 01s 1m30s 1h)),
    'keepalive_drain 0 timeout=1s;',
) {
    is_deeply [verdict(upstream('keepalive 4;', $line))], [1, ''], "accepted: $line";
}

# The place in the block does not matter.
my $server = 'server 127.0.0.1:1 max_conns=1;';
my $drain = 'keepalive_drain 1k timeout=2s;';
for my $block (
    "$drain $server keepalive 4;", "$server $drain keepalive 4;", "$server keepalive 4; $drain",
    "$server keepalive 0; $drain", "least_conn; $drain $server keepalive 4;", "$drain least_conn; $server keepalive 4;",
    "$server keepalive 4; $drain least_conn;", "$drain zone u 64k; $server random; keepalive 4;",
    "$drain queue 10; $server keepalive 4;", "queue 10; $server keepalive 4 per_server; $drain keepalive_timeout 1s;",
) {
    my ($accepted, $said) = verdict("upstream u { $block }\n");
    ok $accepted, "accepted: $block";
    unlike $said, qr/keepalive_drain/, "without a word about keepalive_drain: $block";
}

# Each upstream has its own.
is_deeply [verdict(join '', map { upstream('keepalive 4;', "keepalive_drain ${_}k;") =~ s/ u / u$_ /r } 1 .. 3)], [1, ''], 'accepted: one in each upstream';

done_testing;
