# Servers by IPv4, IPv6 and unix sockets: a connection is used again only for the address that it was made to.
#
# faults: F10.2 "among others: one connection, two requests"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $dir = work_dir();
# Paths of which one is the beginning of the other, and addresses that differ in one place only.
my @listen = ("unix:$dir/s", "unix:$dir/sock", '127.0.0.1:0', '127.0.0.1:0', '127.0.0.2:0');
open my $interfaces, '<', '/proc/net/if_inet6';
my $has_ipv6 = $interfaces && grep { /^0{31}1 .* lo$/ } <$interfaces>;
push @listen, '[::1]:0', '[::1]:0' if $has_ipv6;

my $backend = Keepalive::Backend->start(listen => \@listen);
my @addresses = map { $backend->address($_) } 0 .. $#listen;
my $port = free_port();

my $servers = join "\n", map { "server $_;" } @addresses;
my $blocks = join "\n", map { "upstream u$_ { server $addresses[$_]; keepalive 1; }" } 0 .. $#addresses;
my $locations = join "\n", map { "location /u$_ { proxy_pass http://u$_; }" } 0 .. $#addresses;

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream mixed { $servers keepalive 16; }
$blocks
server {
    listen 127.0.0.1:$port;
    location /mixed { proxy_pass http://mixed; }
    $locations
}
END

for my $index (0 .. $#addresses) {
    $backend->reset;
    get($port, "/u$index") for 1 .. 3;
    is $backend->stats($index)->{accepted}, 1, "$listen[$index]: used again";
    is $backend->stats($index)->{requests}, 3, "$listen[$index]: by all requests";
}

# Round robin over all of them, twice: each server gets two requests, over one connection.
$backend->reset;
get($port, '/mixed') for 1 .. 2 * @addresses;
for my $index (0 .. $#addresses) {
    my $stats = $backend->stats($index);
    is "$stats->{accepted} $stats->{requests}", '1 2', "$listen[$index] among others: one connection, two requests";
}

SKIP: { skip 'no IPv6 on the loopback interface', 1 unless $has_ipv6; pass 'IPv6 was among them' }

$nginx->stop;
done_testing;
