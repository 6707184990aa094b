# The directives `keepalive_check`, `keepalive_hint`, `keepalive_stale_retry` and `keepalive_stale_fails`: what is rejected, with
# file and line, and what is accepted, anywhere in the block.
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
my $dir = $nginx->dir;

sub verdict { $nginx->verdict(@_) }

sub upstream { "upstream u {\n    server 127.0.0.1:1;\n" . join('', map { "    $_\n" } @_) . "}\n" }

my $arguments = sub { qq(invalid number of arguments in "$_[0]" directive) };
my $value = sub { qq(invalid value "$_[1]" in "$_[0]" directive) };
my $flag = sub { $value->(@_) . ', it must be "on" or "off"' };
my $stale_retry = sub { $value->('keepalive_stale_retry', @_) . ', it must be "off", "safe" or "always"' };
my $hint = sub { $value->('keepalive_hint', @_) . ', it must be "learn", "on" or "off"' };
my @refused = (
    (map { my $name = $_; (
        [$arguments->($name), "$name;"],
        [$arguments->($name), "$name on off;"],
        (map { [$flag->($name, $_), "$name $_;"] } qw(yes 1 safe On2)),
        ["\"$name\" directive is duplicate", "$name on;", "$name on;"],
    ) } qw(keepalive_check keepalive_stale_fails)),
    [$arguments->('keepalive_stale_retry'), 'keepalive_stale_retry;'],
    [$arguments->('keepalive_stale_retry'), 'keepalive_stale_retry safe always;'],
    (map { [$stale_retry->($_), "keepalive_stale_retry $_;"] } qw(on yes SAFE safely 1)),
    [$stale_retry->(''), 'keepalive_stale_retry "";'],
    ['"keepalive_stale_retry" directive is duplicate', 'keepalive_stale_retry off;', 'keepalive_stale_retry safe;'],
    [$arguments->('keepalive_hint'), 'keepalive_hint;'],
    (map { my $mode = $_; (
        [$arguments->('keepalive_hint'), "keepalive_hint $mode margin=1s margin=1s;"],
        (map { [qq(invalid value "margin=$_", it must be a time, such as "margin=500ms"), "keepalive_hint $mode margin=$_;"] } '', qw(x -1 1x 1.5s 99999999999999999999)),
        (map { [qq(invalid parameter "$_", it must be "margin=time"), "keepalive_hint $mode $_;"] } qw(on off learn 1s Margin=1s timeout=1s max=1 margin)),
    ) } qw(on learn)),
    (map { [$hint->($_), "keepalive_hint $_;"] } qw(yes On 1s margin=1s Learn learned learn=on)),
    ['invalid parameter "margin=1s", "off" takes no parameters', 'keepalive_hint off margin=1s;'],
    (map { ['"keepalive_hint" directive is duplicate', 'keepalive_hint learn;', "keepalive_hint $_;"] } qw(learn on off)),
    ['"keepalive_hint" directive is duplicate', 'keepalive_hint on;', 'keepalive_hint off;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    my ($accepted, $said) = verdict(upstream(@lines));
    ok !$accepted, "refused: @lines";
    is $said, qq($says in "$lines[-1]"), "with its message: @lines";
}

# Elsewhere than in `upstream`.
for my $directive ('keepalive_check on;', 'keepalive_hint on;', 'keepalive_hint learn;', 'keepalive_stale_retry safe;',
    'keepalive_stale_fails on;') {
    my ($name) = split ' ', $directive;
    for my $http ("$directive\n", "server {\n$directive\n}\n", "server {\nlocation / {\n$directive\n}\n}\n") {
        my ($accepted, $said) = verdict($http);
        ok !$accepted && $said eq qq("$name" directive is not allowed here in "$directive"), "not here: $directive" or diag $said;
    }
}

# What is accepted, in every order, with and without a pool.
for my $lines (
    (map { ["keepalive_check $_;"] } qw(on off ON)), (map { ["keepalive_stale_fails $_;"] } qw(on off)),
    (map { ["keepalive_stale_retry $_;"] } qw(off safe always)),
    (map { ["keepalive_hint $_;"] } 'on', 'off', 'learn'),
    (map { my $mode = $_; map { ["keepalive_hint $mode margin=$_;"] } qw(0 500ms 1m 2) } qw(on learn)),
    ['keepalive_check off;', 'keepalive_hint off;', 'keepalive_stale_retry off;', 'keepalive_stale_fails on;'],
) {
    for my $order ([@$lines, 'keepalive 4;'], ['keepalive 4;', @$lines], ['least_conn;', @$lines, 'keepalive 4;'], ['keepalive 0;', @$lines]) {
        my ($accepted, $said) = verdict(upstream(@$order));
        ok $accepted && $said eq '', "accepted: @$order" or diag $said;
    }
    my ($accepted, $said) = verdict(upstream(@$lines));
    ok $accepted, "accepted: @$lines";
    is $said =~ /will never be used: it has no "keepalive"/ ? 1 : 0, version_at_least('1.29.7') ? 0 : 1, 'with a warning if there is no pool';
}

done_testing;
