# Invalid input: `nginx -t` fails and names directive, value, file and line, in the words of the stock module.
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
    { line => 'keepalive 1 global;',  says => 'invalid parameter "global"', old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive 1 Local;',   says => 'invalid parameter "Local"', old => sprintf($arguments, 'keepalive') },
    { line => 'keepalive x global;',  says => sprintf($value, 'x'), old => sprintf($arguments, 'keepalive') },
    # The third word may be a parameter of ours.
    { line => 'keepalive 1 local 2;', says => sprintf($arguments, 'keepalive'), ours => 'invalid parameter "2"' },
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
    my $differs = { %$case, says => $case->{ours} // $case->{says} };
    is verdict(1, upstream($case)), expected($differs, 0), "ours: $name" if is_ours();
}

# Sizes that fit a number but no memory: the stock module multiplies without a check, so only ours is asked.
if (is_ours()) {
    for my $size (9223372036854775807, 1152921504606846976, 100000000000000) {
        my $said = verdict(1, upstream({ line => "keepalive $size;" }));
        like $said, qr/$size.*keepalive|keepalive.*$size/, "keepalive $size is refused";
    }
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
