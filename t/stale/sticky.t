# A request whose connection was stale keeps its server and what the balancer has set for it: existing sessions of "sticky" stay
# at their server, and new ones that begin with such a request are learned.
#
# faults: F3.4 "the session stays with its server"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my $port = free_port();
my $servers = join ' ', map { 'server ' . $backend->address($_) . ';' } 0 .. 2;
my $learn = 'sticky learn create=$upstream_cookie_sid lookup=$cookie_sid zone=%s:128k%s;';
my %sticky = (
    learn        => sprintf($learn, 'learn', ''),
    header       => sprintf($learn, 'header', ' header'),
    zoned        => 'zone zoned 128k; ' . sprintf($learn, 'sessions', ''),
    cookie       => 'sticky cookie route;',
    route        => 'sticky route $cookie_route;',
);
my $upstreams = join '', map { "upstream $_ { $servers $sticky{$_} keepalive 8; }\n" } sort keys %sticky;
my $locations = join '', map { "location /$_ { proxy_pass http://$_/; }\n" } sort keys %sticky;
my $nginx = Keepalive::Nginx->new(http => <<"END");
$proxy_keepalive
$upstreams
server {
    listen 127.0.0.1:$port;
    add_header X-Server \$upstream_addr always;
    add_header X-Keepalive \$upstream_keepalive_status always;
    $locations
}
END
my ($accepted, $said) = $nginx->test;
plan skip_all => 'nginx has no sticky' if !$accepted && $said =~ /unknown directive "sticky"/;
$nginx->start;

# The servers that a request was sent to, and what became of its connections.
sub servers_of {
    my ($location, $query, @cookie) = @_;
    my $answer = get($port, "/$location?$query", headers => [map { "Cookie: $_" } @cookie]);
    is $answer->{status}, 200, "$location: answered";
    return ([split /, /, $answer->{headers}{'x-server'}], $answer->{headers}{'x-keepalive'}, $answer);
}

# Fills the pool with a connection of each server, each of which closes it when another request comes.
my $stale = 'fault=close&at=start&from=2';

for my $name (qw(learn header zoned)) {
    for my $round (1 .. 6) {
        my $session = "$name$round";
        get($port, "/$name") for 1 .. 3;
        # The session begins with a request that meets a stale connection.
        my ($asked, $how) = servers_of($name, "$stale&header=Set-Cookie:sid=$session");
        is $how, 'STALE, MISS', "$name: the first connection was stale";
        is $asked->[0], $asked->[1], "$name: the same server is asked again";
        my $server = $asked->[-1];
        for my $later ('', $stale, '', $stale, $stale, '') {
            ($asked) = servers_of($name, $later, "sid=$session");
            is_deeply [grep { $_ ne $server } @$asked], [], "$name: the session stays with its server";
        }
    }
}

for my $name (qw(cookie route)) {
    get($port, "/$name") for 1 .. 3;
    my ($asked, undef, $answer) = servers_of($name, '');
    my $server = $asked->[-1];
    # "sticky route" sets no cookie: what names a server there is the other one's.
    my ($cookie) = ($answer->{headers}{'set-cookie'} // '') =~ /^(route=\w+)/ or next;
    for my $later (($stale, '') x 3) {
        ($asked, undef, $answer) = servers_of($name, $later, $cookie);
        is_deeply [grep { $_ ne $server } @$asked], [], "$name: the session stays with its server";
        like $answer->{headers}{'set-cookie'} // '', qr/^\Q$cookie\E$/, "$name: the cookie is set once, as it was";
    }
}

unlike $nginx->error_log, qr/does not support sticky/, 'the balancer has always known the server';
$nginx->stop;
done_testing;
