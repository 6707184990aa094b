# More servers than connections in the pool: a full pool still reuses what it can, and `per_server` needs no arithmetic.
#
# faults: F11.3 "33 servers in a pool of 32"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my ($port, $backend) = map { free_port() } 1 .. 2;

sub servers {
    my ($count) = @_;
    return join ' ', map { "server 127.0.0.$_:$backend;" } 1 .. $count;
}

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream room_for_32  { @{[ servers(32) ]} keepalive 32; }
upstream one_more     { @{[ servers(33) ]} keepalive 32; }
upstream eight_more   { @{[ servers(40) ]} keepalive 32; }
upstream each_has_two { @{[ servers(40) ]} keepalive 2 per_server; }
server {
@{[ map { "    listen 127.0.0.$_:$backend;\n" } 1 .. 40 ]}
    location / { return 200 "\$connection_requests\\n"; }
}
server {
    listen 127.0.0.1:$port;
    keepalive_requests 100000;
    location / { proxy_pass http://\$arg_u; }
}
END

# The share of requests, in per cent, that find a connection when one client asks one server after the other.
sub reuse {
    my ($upstream, $servers) = @_;
    my $rounds = 8;
    get($port, "/?u=$upstream") for 1 .. $servers;
    my $reused = grep { get($port, "/?u=$upstream")->{body} > 1 } 1 .. $servers * $rounds;
    return 100 * $reused / ($servers * $rounds);
}

my %reuse = (room_for_32 => reuse('room_for_32', 32), one_more => reuse('one_more', 33),
    eight_more => reuse('eight_more', 40), each_has_two => reuse('each_has_two', 40));
diag join ', ', map { sprintf '%s %.1f %%', $_, $reuse{$_} } sort keys %reuse;
cmp_ok $reuse{room_for_32}, '==', 100, 'room for all';
cmp_ok $reuse{one_more}, '>=', 90, '33 servers in a pool of 32';
cmp_ok $reuse{eight_more}, '>=', 70, '40 servers in a pool of 32';
cmp_ok $reuse{each_has_two}, '>=', 98, '40 servers, two each';

$nginx->stop;
done_testing;
