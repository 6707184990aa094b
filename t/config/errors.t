# Invalid input: `nginx -t` fails and names directive, value, file and line, in the words of the stock module, followed by what
# is allowed. What is allowed but makes no sense is worth a warning.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $port = free_port();
my $nginx = Keepalive::Nginx->new(http => '');

# What `nginx -t` says about an http block, its own prefix and the folder left out; '' if it accepts it.
sub verdict {
    my ($module, $http) = @_;
    $nginx->configure(module => $module, http => $http);
    my ($accepted, $output) = $nginx->test;
    return '' if $accepted;
    my ($message) = $output =~ /^nginx: \[emerg\] (.*)$/m or return "no message: $output";
    my $dir = $nginx->dir;
    $message =~ s{\Q$dir\E/}{};
    # The text of the line stands for its number.
    $message =~ s/(nginx\.conf):(\d+)/"$1: " . line($2)/e;
    return $message;
}

sub line {
    my ($number) = @_;
    open my $in, '<', $nginx->dir . '/nginx.conf' or die $!;
    my @lines = <$in>;
    my $line = $lines[$number - 1] // '(no such line)';
    $line =~ s/^\s+|\s+$//g;
    return $line;
}

# Each case: the bad line, and what is said about it. `old` is what stock says before 1.29.7, if that differs;
# an empty text means that the line is accepted. `before` are lines that stand before the bad one.
my $arguments = 'invalid number of arguments in "%s" directive';
my $value     = 'invalid value "%s" in "keepalive" directive';
my $duplicate = '"%s" directive is duplicate';
my $either    = 'it must be "local" or "per_server"';
# What ours adds to a message: the values that are allowed.
my %allowed   = (
    qr/^invalid value .* in "keepalive" directive$/ => 'it must be a number from 0 to 4294967294',
    qr/directive invalid number$/                   => 'it must be 0 or more',
    qr/directive invalid value$/                    => 'it must be a time, such as "60s"',
);
my @cases = (
    { line => 'keepalive;',           says => sprintf($arguments, 'keepalive') },
    { line => 'keepalive x;',         says => sprintf($value, 'x') },
    { line => 'keepalive -1;',        says => sprintf($value, '-1') },
    { line => 'keepalive 1.5;',       says => sprintf($value, '1.5') },
    { line => 'keepalive 1k;',        says => sprintf($value, '1k') },
    { line => 'keepalive on;',        says => sprintf($value, 'on') },
    { line => 'keepalive "";',        says => sprintf($value, '') },
    { line => 'keepalive " 1";',      says => sprintf($value, ' 1') },
    { line => 'keepalive 9223372036854775808;',   says => sprintf($value, '9223372036854775808') },
    { line => 'keepalive 99999999999999999999;',  says => sprintf($value, '99999999999999999999') },
    { line => 'keepalive 0;',         says => '', old => sprintf($value, '0') },
    { line => 'keepalive 00;',        says => '', old => sprintf($value, '00') },
    { line => 'keepalive 1 local;',   says => '', old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive 0 local;',   says => '', old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive 1 global;',  says => 'invalid parameter "global"', ours => 'invalid parameter "global", ' . $either, old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive 1 Local;',   says => 'invalid parameter "Local"', ours => 'invalid parameter "Local", ' . $either, old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive x global;',  says => sprintf($value, 'x'), old => sprintf($arguments, 'keepalive') },
    # The third word may be a parameter of ours.
    { line => 'keepalive 1 local 2;', says => sprintf($arguments, 'keepalive'), ours => 'invalid parameter "2", ' . $either },
    { line => 'keepalive 1 local per_server 2;', says => sprintf($arguments, 'keepalive') },
    { line => 'keepalive 2;', before => 'keepalive 1;', says => sprintf($duplicate, 'keepalive') },
    { line => 'keepalive x;', before => 'keepalive 1;', says => sprintf($duplicate, 'keepalive') },
    { line => 'keepalive 2;', before => 'keepalive 0;', says => sprintf($duplicate, 'keepalive'),
      old_line => 'keepalive 0;', old => sprintf($value, '0') },
    { line => 'keepalive 0;', before => 'keepalive 2;', says => sprintf($duplicate, 'keepalive') },

    { line => 'keepalive_requests;',     says => sprintf($arguments, 'keepalive_requests') },
    { line => 'keepalive_requests 1 2;', says => sprintf($arguments, 'keepalive_requests') },
    { line => 'keepalive_requests x;',   says => '"keepalive_requests" directive invalid number' },
    { line => 'keepalive_requests -1;',  says => '"keepalive_requests" directive invalid number' },
    { line => 'keepalive_requests 99999999999999999999;', says => '"keepalive_requests" directive invalid number' },
    { line => 'keepalive_requests 2;', before => 'keepalive_requests 1;',
      says => sprintf($duplicate, 'keepalive_requests') },
    (map { (
        { line => "$_;",      says => sprintf($arguments, $_) },
        { line => "$_ 1 2;",  says => sprintf($arguments, $_) },
        { line => "$_ x;",    says => qq("$_" directive invalid value) },
        { line => "$_ -1;",   says => qq("$_" directive invalid value) },
        { line => "$_ 1x;",   says => qq("$_" directive invalid value) },
        { line => "$_ 99999999999999999999s;", says => qq("$_" directive invalid value) },
        { line => "$_ 9223372036854775807s;",  says => qq("$_" directive invalid value) },
        { line => "$_ 2s;", before => "$_ 1s;", says => sprintf($duplicate, $_) },
    ) } qw(keepalive_time keepalive_timeout)),
);

sub with_allowed {
    my ($says) = @_;
    my ($added) = map { $allowed{$_} } grep { $says =~ $_ } keys %allowed;
    return $added ? "$says, $added" : $says;
}

sub upstream {
    my ($case) = @_;
    my $before = $case->{before} // '';
    return "upstream u {\n    server 127.0.0.1:1;\n    $before\n    $case->{line}\n}\n";
}

sub expected {
    my ($case, $old) = @_;
    my $says = $old ? $case->{old} // $case->{says} : $case->{says};
    my $line = $old ? $case->{old_line} // $case->{line} : $case->{line};
    return $says eq '' ? '' : "$says in nginx.conf: $line";
}

my $stock_is_old = !version_at_least('1.29.7');
for my $case (@cases) {
    my $name = join ' ', grep { defined } @$case{qw(before line)};
    is verdict(0, upstream($case)), expected($case, $stock_is_old), "stock: $name";
    my $differs = { %$case, says => $case->{ours} // with_allowed($case->{says}) };
    is verdict(1, upstream($case)), expected($differs, 0), "ours: $name" if is_ours();
}

# Sizes that fit a number but no memory: the stock module multiplies without a check, so only ours is asked.
if (is_ours()) {
    for my $size (9223372036854775807, 1152921504606846976, 100000000000000) {
        my $said = verdict(1, upstream({ line => "keepalive $size;" }));
        like $said, qr/$size.*keepalive|keepalive.*$size/, "keepalive $size is refused";
        like $said, qr/it must be a number from 0 to 4294967294/, "keepalive $size: with the bound";
    }
}

# A pool that no worker can fill: the number of connections is the bound, and the memory is told.
if (is_ours()) {
    my $says = sub { ($nginx->verdict("upstream u {\nserver 127.0.0.1:1;\n$_[0]\n}\n", 'warn'))[1] };
    $nginx->configure(module => 1);
    is $says->("keepalive $_;"), '', "keepalive $_: no warning" for 1, 1024, '1024 local';
    is $says->('keepalive 1024 per_server;'), '', 'a pool with per_server: no warning';
    like $says->("keepalive $_->[0];"), qr/^"keepalive $_->[1]" in upstream "u" is more than "worker_connections 1024"; a pool of this size needs $_->[2] MB of memory in each worker in "upstream u \{"$/,
        "keepalive $_->[0]: a warning" for [1025, 1025, 1], ['100000 local', 100000, '\d\d'], ['1000000 per_server', 1000000, '\d{3}'];
    my ($good, $said) = $nginx->verdict("upstream u {\nserver 127.0.0.1:1;\nkeepalive 4294967294;\n}\n");
    like $said, $good ? qr/ is more than "worker_connections 1024"/ : qr/^no memory for "keepalive 4294967294": it needs \d{6} MB in each worker in /,
        'the largest number: what it needs';

    # Without a pool these have no effect. With "keepalive 0" that is said already.
    my %written = (keepalive_requests => 7, keepalive_time => '1m', keepalive_timeout => '5s', keepalive_drain => 0, keepalive_check => 'off',
        keepalive_hint => 'off', keepalive_stale_retry => 'off', keepalive_stale_fails => 'on', keepalive_handover => 'off');
    my $has_pool = version_at_least('1.29.7');
    for my $name (sort keys %written) {
        is $says->("$name $written{$name};"), $has_pool ? '' : qq("$name" in upstream "u" will never be used: it has no "keepalive" in "upstream u {"),
            "$name without a pool";
        is $says->("keepalive $_;\n$name $written{$name};"), '', "$name with keepalive $_: no warning" for 0, 4;
        is $says->("$name $written{$name};\nkeepalive 4;"), '', "$name before keepalive: no warning";
    }
    my $all = join "\n", map { "$_ $written{$_};" } sort keys %written;
    is $says->($all), $has_pool ? '' : join(', ', map { qq("$_") } qw(keepalive_requests keepalive_time keepalive_timeout keepalive_drain
        keepalive_check keepalive_hint keepalive_stale_retry keepalive_stale_fails keepalive_handover)) .
        ' in upstream "u" will never be used: it has no "keepalive" in "upstream u {"', 'all of them: one warning';
    is $says->('queue 1;'), '"queue" in upstream "u" will never be used: none of its servers has "max_conns" in "upstream u {"', 'queue has a warning of its own';
}

# Wrong blocks. (The other three names belong to nginx's core there, see names-at-other-levels.t.)
for my $module (0, is_ours() ? 1 : ()) {
    my $who = $module ? 'ours' : 'stock';
    my $place = '"keepalive" directive is not allowed here in nginx.conf: keepalive 1;';
    is verdict($module, "keepalive 1;\n"), $place, "$who: in http";
    is verdict($module, "server {\nkeepalive 1;\n}\n"), $place, "$who: in server";
    is verdict($module, "server { location / {\nkeepalive 1;\n} }\n"), $place, "$who: in location";
    is verdict($module, "upstream u {\nserver 127.0.0.1:1;\nkeepalive 1\n}\n"),
        'unexpected "}" in nginx.conf: }', "$who: no semicolon";
}

# A running nginx keeps its configuration when the new one is bad.
my $server = "server { listen 127.0.0.1:$port; location / { return 200 good; } }\n";
$nginx->configure(module => is_ours(), http => $server);
$nginx->start;
my @workers = $nginx->workers;
$nginx->configure(http => "upstream u {\nserver 127.0.0.1:1;\nkeepalive x;\n}\n" . $server =~ s/good/bad/r);
$nginx->signal('HUP');
ok wait_for { $nginx->error_log =~ /invalid value "x" in "keepalive" directive/ }, 'the reload is refused';
is get($port, '/')->{body}, 'good', 'the old configuration answers';
is_deeply [$nginx->workers], \@workers, 'the workers are the old ones';
$nginx->allow(qr/invalid value "x"/);
$nginx->stop;

done_testing;
