# The directive `keepalive_handover`: what is rejected, with file and line, what is accepted, and what applies to an upstream.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Handover;
use Keepalive::Nginx;
use Keepalive::Queue qw(afresh);
use Keepalive::Setup;

needs_module();

my $nginx = Keepalive::Nginx->new(http => '');

sub verdict { $nginx->verdict(@_) }

sub upstream { "upstream u {\n    server 127.0.0.1:1;\n" . join('', map { "    $_\n" } @_) . "}\n" }

my $arguments = 'invalid number of arguments in "keepalive_handover" directive';
my $flag = sub { qq(invalid value "$_[0]" in "keepalive_handover" directive, it must be "on" or "off") };
my $duplicate = '"keepalive_handover" directive is duplicate';
my @refused = (
    [$arguments, 'keepalive_handover;'],
    [$arguments, 'keepalive_handover on off;'],
    (map { [$flag->($_), "keepalive_handover $_;"] } qw(x yes 1 0 On2 local)),
    [$flag->(''), 'keepalive_handover "";'],
    [$duplicate, 'keepalive_handover on;', 'keepalive_handover off;'],
    [$duplicate, 'keepalive_handover off;', 'keepalive_handover off;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    for my $http (upstream(@lines), join('', map { "$_\n" } @lines)) {
        my $where = $http =~ /^upstream/ ? 'upstream' : 'http';
        my ($accepted, $said) = verdict($http);
        ok !$accepted, "refused in $where: @lines";
        is $said, qq($says in "$lines[-1]"), "with its message: @lines";
    }
}

for my $http (map { "server {\n$_\n}\n" } 'keepalive_handover on;', "location / {\nkeepalive_handover on;\n}",
    "location / {\nif (\$uri) {\nkeepalive_handover on;\n}\n}") {
    my ($accepted, $said) = verdict($http);
    ok !$accepted && $said eq '"keepalive_handover" directive is not allowed here in "keepalive_handover on;"', 'not here: ' . $http =~ s{\n}{ }gr
        or diag $said;
}

# Accepted, and without a word.
for my $value (qw(on off ON Off)) {
    my $line = "keepalive_handover $value;";
    for my $http ("$line\n", upstream($line, 'keepalive 4;'), upstream('keepalive 4;', $line), upstream('keepalive 0;', $line),
        upstream('least_conn;', $line, 'keepalive 4 local;'), upstream('keepalive 4;') . "$line\n",
        "keepalive_handover on;\n" . upstream('keepalive 4;', $line), upstream('keepalive 4;', $line) . "keepalive_handover off;\n") {
        my ($accepted, $said) = verdict($http);
        ok $accepted && $said eq '', 'accepted: ' . $http =~ s{\s+}{ }gr or diag $said;
    }
}

# Which value applies: that of the upstream, else that of http, wherever it stands there, else `on`.
my $backend = Keepalive::Backend->start;
my $port = free_port();
for my $case (
    # In http, and the upstreams of which another worker gets a connection.
    ['',                        qw(on silent)],
    ['keepalive_handover on;',  qw(on silent)],
    ['keepalive_handover off;', qw(on)],
) {
    my ($line, @expected) = @$case;
    my $pool = 'server ' . $backend->address . '; keepalive 4;';
    my %upstreams = (silent => $pool, on => "$pool keepalive_handover on;", off => "keepalive_handover off; $pool");
    for my $http ($line, $line ? "upstream before { $pool }\n$line" : ()) {
        my $title = 'http: ' . ($line || 'nothing') . ($http ne $line ? ' after an upstream' : '');
        my $running = handover_nginx($port, { %upstreams }, http => $http)->start;
        my ($here, $there) = clients_of($port, $running);
        for my $name (sort keys %upstreams) {
            my $is_shared = grep { $_ eq $name } @expected;
            my $says = $is_shared ? 'another worker gets the connection' : 'another worker opens its own';
            in_turn(sub { afresh($port, $backend) }, 'MISS ' . ($is_shared ? 'TAKEN' : 'MISS'), "$title, upstream $name: $says",
                [$here, "/$name"], [$there, "/$name"]);
        }
        $running->stop;
    }
}

done_testing;
