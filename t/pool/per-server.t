# `keepalive N per_server`: the limit applies to each server address.
#
# faults: F11.3 "two of four connections stay"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my @backends = map { Keepalive::Backend->start } 1 .. 2;
my $port = free_port();
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream two_each { @{[ map { 'server ' . $_->address . ';' } @backends ]} keepalive 2 per_server; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://two_each; }
}
END

# Eight at once are four for each server.
$_->finish for map { begin($port, '/?delay=' . 100 * $_) } 1 .. 8;
ok wait_for { $_->stats->{open} == 2 }, 'two of four connections stay' for @backends;
is $_->stats->{accepted}, 4, 'four were opened' for @backends;
$_->finish for map { begin($port, '/?delay=100') } 1 .. 4;
is $_->stats->{accepted}, 4, 'and the two are used again' for @backends;

$nginx->stop;

# Bad words.
for my $case (
    ['keepalive 2 per-server;',             'invalid parameter "per-server", it must be "local" or "per_server"'],
    ['keepalive 2 per_server per_server;',  'duplicate parameter "per_server"'],
    ['keepalive 2 local local;',            'duplicate parameter "local"'],
    ['keepalive per_server;',               'invalid value "per_server" in "keepalive" directive, it must be a number from 0 to 4294967294'],
    ['keepalive 2 local per_server more;',  'invalid number of arguments in "keepalive" directive'],
) {
    my ($directive, $message) = @$case;
    my ($good, $said) = Keepalive::Nginx->new(http => "upstream u { server 127.0.0.1:80;\n$directive }")->test;
    ok !$good, "$directive is refused";
    like $said, qr/\[emerg\] .*\Q$message\E in \S+nginx\.conf:\d+/, "$directive: $message";
}
for my $directive ('keepalive 2 per_server local;', 'keepalive 2 local per_server;', 'keepalive 0 per_server;') {
    my ($good) = Keepalive::Nginx->new(http => "upstream u { server 127.0.0.1:80; $directive }")->test;
    ok $good, "$directive is accepted";
}

done_testing;
