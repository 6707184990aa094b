# A stopped worker (SIGSTOP) answers nothing: the others wait neither for its turn nor for the slots that it holds.
#
# faults: F13.7 "those of the other worker are served meanwhile"

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
my $limited = 'zone u 64k; server ' . $backend->address;

# With reuseport each worker has clients of its own.
sub two_workers {
    my ($upstream, %options) = @_;
    $backend->reset;
    my $nginx = queue_nginx($port, { u => "$limited $upstream" }, workers => 2, listen => 'reuseport', %options)->start;
    return ($nginx, $nginx->workers);
}

# Its request has waited longest.
for my $keepalive ('', 'keepalive 4;') {
    my $title = 'longest wait' . ($keepalive ? '' : ', no pool');
    my ($nginx, $stopped, $running) = two_workers("max_conns=2; $keepalive queue 100 timeout=30s;");
    my @there = connections_to($port, $stopped, 3);
    my @here = connections_to($port, $running, 52);
    my @held = map { begin($port, '/u?fault=hang&at=start', over => shift @here) } 1, 2;
    ok wait_for { $backend->stats->{requests} == 2 }, "$title: two requests hold the server";
    my $longest = begin($port, '/u?longest', over => shift @there, timeout => 30);
    settle($port, @there);
    $nginx->signal(STOP => $stopped);
    my @waiting = map { begin($port, "/u?n=$_", over => shift @here, timeout => 5) } 1 .. 10;
    my $begun = time;
    $_->abort for @held;
    # If the other worker had its turn only once a second, few of them would be served in this time.
    my @answers;
    while (time - $begun < 8) {
        my $request = shift @waiting || begin($port, '/u', over => shift @here || last, timeout => 5);
        push @answers, $request->finish;
    }
    is statuses(@answers), '200 x 50', "$title: those of the other worker are served meanwhile";
    $nginx->signal(CONT => $stopped);
    is $longest->finish->{status}, 200, "$title: and that one, when its worker goes on";
    is $backend->stats->{max_open}, 2, "$title: within max_conns";
    $nginx->stop;
}

# Its connections are idle, and take all the room there is.
for my $queue ('', 'queue 100 timeout=20s;') {
    my $title = 'idle connections' . ($queue ? ', queue' : '');
    my ($nginx, $stopped, $running) = two_workers("max_conns=4; keepalive 4; $queue", inside => 'proxy_connect_timeout 6s;');
    my @there = connections_to($port, $stopped, 4);
    my @here = connections_to($port, $running, 8);
    is statuses(map { begin($port, '/u?delay=100', over => $_) } @there), '200 x 4', "$title: four requests of a worker";
    ok wait_for { established($backend->port, $stopped) == 4 }, "$title: it keeps four connections";
    $nginx->signal(STOP => $stopped);
    my $begun = time;
    is statuses(map { begin($port, '/u?delay=100', over => shift @here) } 1 .. 4), '200 x 4',
        "$title: four requests of another worker";
    my $seconds = time - $begun;
    cmp_ok $seconds, '>', 0.9, "$title: which waits for room for a while";
    cmp_ok $seconds, '<', 5, "$title: but not for ever";
    $nginx->signal(CONT => $stopped);
    is statuses(map { get($port, "/u?n=$_") } 1 .. 20), '200 x 20', "$title: when the worker goes on, both serve";
    $nginx->stop;
}

done_testing;
