# Waiting leaves nothing behind: after thousands of requests that waited, were refused, or left, a worker uses as much memory and
# as many descriptors as after the first ones.
#
# faults: F9.2 "those who stay are served"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $limited = 'server ' . $backend->address . ' max_conns=4;';

for my $zone ('', 'zone %s 128k;') {
    my $title = $zone ? 'zone' : 'no zone';
    my %upstreams = (
        pool    => "$limited keepalive 4; queue 2000;",
        no_pool => "$limited queue 2000;",
        short   => "$limited keepalive 4; queue 300 timeout=100ms;",
    );
    my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        log_level => 'warn', connections => 8192, main => 'worker_rlimit_nofile 8192;')->start;
    my ($worker) = $nginx->workers;

    # Two thousand requests that wait: half of them are served, the others leave, time out or find no place.
    my $round = sub {
        for my $name (qw(pool no_pool)) {
            my @held = map { begin($port, "/$name?fault=hang&at=start&n=$_") } 1 .. 4;
            settle($port);
            my @waiting = map { begin($port, "/$name") } 1 .. 600;
            $waiting[$_]->abort for map { $_ * 6 } 0 .. 99;
            settle($port);
            $_->abort for @held;
            is statuses(map { $waiting[$_] } grep { $_ % 6 } 0 .. 599), '200 x 500', "$title, $name: those who stay are served";
        }
        my @held = map { begin($port, "/short?fault=hang&at=start&n=$_") } 1 .. 4;
        settle($port);
        is statuses(map { begin($port, '/short') } 1 .. 400), '502 x 400', "$title: those without place or time are not";
        $_->abort for @held;
        ok wait_for { $backend->stats->{open} <= 8 }, "$title: nothing but idle connections is left";
        settle($port);
        $backend->drop;
        ok wait_for { $backend->stats->{open} == 0 }, "$title: and these are closed";
        settle($port);
        return (memory_of($worker), $nginx->descriptors);
    };
    # The first rounds may allocate more, especially on a busy machine; a leak grows each time.
    my ($memory, $descriptors) = $round->();
    my $least = 'unknown';
    for (1 .. 5) {
        my ($memory_before, $descriptors_before) = ($memory, $descriptors);
        ($memory, $descriptors) = $round->();
        is $descriptors, $descriptors_before, "$title: as many descriptors as before";
        $least = $memory - $memory_before if $least eq 'unknown' || $memory - $memory_before < $least;
        last if $least < 100;
    }
    memory_is_below $least, 100, "$title: no more memory than before (kB more)";
    $nginx->stop;
}

done_testing;
