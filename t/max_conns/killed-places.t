# A worker is killed and none replaces it, as after a reload: the others take its slots back within about two seconds.
#
# faults: F12.3 "the request that waits in the other one is served"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();

# Two workers, one of which holds the only place while a request waits in the other.
sub held_and_waiting {
    my ($title) = @_;
    my $nginx = queue_nginx($port, { u => 'zone u 64k; server ' . $backend->address . ' max_conns=1; keepalive 4; queue 100 timeout=30s;' },
        workers => 2, listen => 'reuseport')->start;
    $nginx->allow(qr/exited on signal 9/);
    my ($killed, $other) = $nginx->workers;
    my @there = connections_to($port, $killed, 1);
    my @here = connections_to($port, $other, 3);
    $backend->reset;
    my $held = begin($port, '/u?fault=hang&at=start', over => shift @there);
    ok wait_for { $backend->stats->{requests} == 1 }, "$title: one worker holds the server";
    my $waiting = begin($port, '/u?n=1', over => shift @here, timeout => 20);
    settle($port, @here);
    return ($nginx, $killed, $waiting, $held);
}

sub is_served_soon {
    my ($title, $waiting, $begun) = @_;
    is $waiting->finish->{status}, 200, "$title: the request that waits in the other one is served";
    cmp_ok time - $begun, '<', 8, "$title: soon";
    is $backend->stats->{max_open}, 1, "$title: within max_conns";
}

{
    my $title = 'after a reload';
    my ($nginx, $killed, $waiting, $held) = held_and_waiting($title);
    $nginx->reload;
    my $begun = time;
    kill KILL => $killed;
    is_served_soon($title, $waiting, $begun);
    $nginx->stop;
}

# Until its exit status is read, a process with its number exists.
{
    my $title = 'the master is stopped';
    my ($nginx, $killed, $waiting, $held) = held_and_waiting($title);
    $nginx->signal('STOP');
    my $begun = time;
    kill KILL => $killed;
    ok wait_for { !Keepalive::Nginx::is_alive($killed) }, "$title: a worker has ended";
    ok kill(0, $killed), "$title: but its number is still taken";
    is_served_soon($title, $waiting, $begun);
    $nginx->signal('CONT');
    ok wait_for { my @workers = $nginx->workers; @workers == 2 && !grep { $_ == $killed } @workers }, "$title: a new one comes";
    is statuses(map { get($port, "/u?m=$_") } 1 .. 20), '200 x 20', "$title: both serve";
    is $backend->stats->{max_open}, 1, "$title: within max_conns then";
    $nginx->stop;
}

done_testing;
