# Which connection is taken, and which one is evicted: last in, first out; the least recently used is evicted.
#
# faults: F11.3 "the connection stored first was evicted"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream large { server @{[ $backend->address ]}; keepalive 8; }
upstream small { server @{[ $backend->address ]}; keepalive 2; }
server {
    listen 127.0.0.1:$port;
    location /large { proxy_pass http://large; }
    location /small { proxy_pass http://small; }
}
END

# Sends requests that are all under way at once and end in the order of the list: each holds a connection of its own,
# and the first one of the list is stored first. Returns the serials of these connections.
sub together {
    my ($path, $count) = @_;
    my @requests = map { begin($port, "$path?delay=" . $_ * 100) } 1 .. $count;
    return map { $_->finish->{headers}{'x-connection'} } @requests;
}

sub one { get($port, $_[0])->{headers}{'x-connection'} }

# LIFO: the connection stored last is the first to be used.
my ($first, $second, $third) = together('/large', 3);
is one('/large'), $third, 'the connection stored last is used first';
is one('/large'), $third, 'and again, since it has been stored last again';
is_deeply [together('/large', 2)], [$third, $second], 'two at once take the last two';
is one('/large'), $second, 'the order is that of storing, not of connecting';
is_deeply [together('/large', 3)], [$second, $third, $first], 'the one that waited longest is taken last';
is $backend->stats->{accepted}, 3, 'three connections were enough for all of this';

# Eviction: a third connection evicts the first stored one.
$backend->reset;
($first, $second, $third) = together('/small', 3);
ok wait_for { $backend->stats->{open} == 2 }, 'a pool of two keeps two of three';
is_deeply [together('/small', 2)], [$third, $second], 'the connection stored first was evicted';

# After that the order is second (last stored), third. Use makes young: third goes in front by being used.
my $held = begin($port, '/small?delay=100');
is one('/small'), $third, 'while the second is in use the third is found';
is $held->finish->{headers}{'x-connection'}, $second, 'the second is stored after it';
is_deeply [together('/small', 3)], [$second, $third, 4], 'both are used and a fourth is opened';
is_deeply [together('/small', 2)], [4, $third], 'the one that was used first was evicted, though it is younger';

$nginx->stop;
done_testing;
