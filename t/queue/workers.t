# Several workers and a `zone`: max_conns limits all of them together, the request that has waited longest is served next in
# whichever worker, and the slots of a killed worker return.
#
# faults: F12.3 "places can be used at once"
# faults: F13.1 "first come, first served"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $limited = 'server ' . $backend->address;

# With reuseport the kernel spreads clients over the workers.
sub workers_nginx {
    my ($number, $upstreams, %options) = @_;
    $backend->reset;
    return queue_nginx($port, $upstreams, listen => 'reuseport', workers => $number, log_level => 'warn', %options)->start;
}

sub busy_workers { my ($nginx) = @_; grep { established($backend->port, $_) } $nginx->workers }

# A request has reached its queue when its worker has nothing else to do; with several of them that takes a moment.
sub begin_all { my @all = map { begin($port, $_, timeout => 60) } @_; sleep 0.1; return @all }

# A thousand at once.
for my $keepalive ('', 'keepalive 4;') {
    my $title = 'a thousand at once' . ($keepalive ? '' : ', no pool');
    my $nginx = workers_nginx(4, { u => "zone u 64k; $limited max_conns=4; $keepalive queue 2000 timeout=60s;" });
    my @requests = map { begin($port, "/u?delay=3&n=$_", timeout => 60) } 1 .. 1000;
    is statuses(@requests), '200 x 1000', "$title: all are answered";
    my $stats = $backend->stats;
    is $stats->{requests}, 1000, "$title: each once";
    is $stats->{max_open}, 4, "$title: never more than four connections at a time, of all workers together";
    diag "$title: $stats->{accepted} connections" if $keepalive;
    ok wait_for { established($backend->port) <= 4 }, "$title: as many are open afterwards";

    # First come, first served, over the workers.
    is statuses(begin_all(map { "/u?delay=5&n=$_" } 1 .. 50)), '200 x 50', "$title: and some more";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# The longest wait first. With one connection at a time, the connections and their requests show the order.
for my $keepalive ('', 'keepalive 1;') {
    my $title = $keepalive ? 'order' : 'order, no pool';
    my $nginx = workers_nginx(4, { u => "zone u 64k; $limited max_conns=1; $keepalive queue 100 timeout=20s;" },
        locations => 'location = /status { keepalive_status; }');
    my $status = Keepalive::Status->new($port);
    my $held = begin($port, '/u?fault=hang&at=start');
    ok wait_for { $backend->stats->{requests} == 1 }, "$title: the server is held";
    # Each begins to wait before the next one is sent, and in another millisecond: workers compare no finer times.
    my @waiting;
    for my $number (1 .. 40) {
        sleep 0.003;
        push @waiting, begin($port, "/u?n=$number");
        wait_for { $status->json->{upstreams}{u}{queue}{size} == $number } or diag "$title: $number do not wait";
    }
    $held->abort;
    my @answers = map { $_->finish } @waiting;
    is statuses(@answers), '200 x 40', "$title: all are answered";
    my @order = map { carried_by($_) } @answers;
    is_deeply \@order, [sort { $a <=> $b } @order], "$title: first come, first served";
    is $backend->stats->{max_open}, 1, "$title: one connection at a time";
    $nginx->stop;
}

# Idle connections of other workers make room at once, with a queue and without one.
for my $queue ('', 'queue 100 timeout=20s;') {
    my $title = 'idle elsewhere' . ($queue ? '' : ', no queue');
    my $nginx = workers_nginx(4, { u => "zone u 64k; $limited max_conns=4; keepalive 4; $queue" });
    for my $round (1 .. 3) {
        is statuses(begin_all(map { "/u?delay=60&n=$_" } 1 .. 4)), '200 x 4', "$title: four at once, round $round";
    }
    ok wait_for { established($backend->port) == 4 }, "$title: four connections are idle";
    my $begun = time;
    is statuses(map { get($port, "/u?n=$_") } 1 .. 200), '200 x 200', "$title: any worker can serve a request";
    cmp_ok time - $begun, '<', 3, "$title: without delay";
    for my $round (1 .. 20) {
        is statuses(map { begin($port, "/u?delay=5&n=$_") } 1 .. 4), '200 x 4', "$title: and four at once, again";
    }
    is $backend->stats->{max_open}, 4, "$title: never more than four connections";
    my @held = map { begin($port, "/u?fault=hang&at=start&n=$_") } 1 .. 4;
    ok wait_for { established($backend->port) == 4 && $backend->stats->{requests} == 296 }, "$title: four hold the server"
        or diag explain $backend->stats;
    is get($port, '/u')->{status}, 502, "$title: a fifth one is refused" unless $queue;
    $_->abort for @held;
    ok wait_for { get($port, '/u')->{status} == 200 }, "$title: and served afterwards";
    $nginx->stop;
}

# kill -9, while requests hold the server and others wait, in all workers.
for my $queue ('', 'queue 100 timeout=20s;') {
    my $title = 'kill -9' . ($queue ? '' : ', no queue');
    my $nginx = workers_nginx(3, { u => "zone u 64k; $limited max_conns=4; keepalive 4; $queue" });
    $nginx->allow(qr/exited on signal 9/);
    for my $round (1 .. 3) {
        my $before = $backend->stats->{requests};
        my @held = begin_all(map { "/u?fault=hang&at=start&n=$_" } 1 .. 4);
        ok wait_for { $backend->stats->{requests} == $before + 4 }, "$title, round $round: four requests hold the server";
        my @waiting = $queue ? begin_all(map { "/u?n=$_" } 1 .. 20) : ();
        my ($victim) = busy_workers($nginx);
        my $lost = established($backend->port, $victim);
        kill KILL => $victim;
        ok wait_for { my @now = $nginx->workers; @now == 3 && !grep { $_ == $victim } @now }, "$title, round $round: the worker is replaced";

        # The places of the dead worker are free again: the others use them, while the rest is still held.
        ok wait_for { established($backend->port) <= 4 }, "$title, round $round: its $lost connections are closed";
        my @answers = map { $_->finish } @waiting;
        is statuses(@answers) =~ s/^0 x \d+(?:, )?//r =~ s/ x \d+$//r, '200', "$title, round $round: the workers that live serve all that wait"
            if @waiting;
        is statuses(begin_all(map { "/u?delay=30&n=$_" } 1 .. $lost)), "200 x $lost",
            "$title, round $round: $lost places can be used at once";
        $_->abort for @held;
        ok wait_for { established($backend->port) <= 4 }, "$title, round $round: the others are given up";
        sleep 0.1;

        # No place is lost, and none is there twice.
        is statuses(begin_all(map { "/u?delay=200&n=$_" } 1 .. 4)), '200 x 4', "$title, round $round: four at once, as before";
        my @five = begin_all(map { "/u?delay=300&n=$_" } 1 .. 5);
        is statuses(@five), $queue ? '200 x 5' : '200 x 4, 502 x 1', "$title, round $round: a fifth one is one too many";
    }
    is $backend->stats->{max_open}, 4, "$title: never more than four connections";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# All workers are killed at once.
{
    my $nginx = workers_nginx(3, { u => "zone u 64k; $limited max_conns=2; keepalive 4; queue 100 timeout=20s;" });
    $nginx->allow(qr/exited on signal 9/);
    my @held = begin_all(map { "/u?fault=hang&at=start&n=$_" } 1 .. 12);
    my @old = $nginx->workers;
    kill KILL => @old;
    ok wait_for { my %old = map { $_ => 1 } @old; 3 == grep { !$old{$_} } $nginx->workers }, 'all killed: all are replaced';
    is statuses(@held), '0 x 12', 'all killed: what they had is lost';
    is statuses(begin_all(map { "/u?delay=20&n=$_" } 1 .. 30)), '200 x 30', 'all killed: the new ones serve, with a queue';
    is $backend->stats->{max_open}, 2, 'all killed: within max_conns';
    $nginx->stop;
}

# kill -9 of a worker that a reload has left behind: no new one takes its place, but the other one that was left behind
# takes back what it held, and serves those who wait with it.
{
    my $nginx = workers_nginx(2, { u => "zone u 64k; $limited max_conns=2; keepalive 4; queue 100 timeout=30s;" });
    $nginx->allow(qr/exited on signal 9/);
    my ($victim, $other) = $nginx->workers;
    my @there = connections_to($port, $victim, 9);
    my @here = connections_to($port, $other, 12);
    my @lost = map { begin($port, '/u?fault=hang&at=start', over => shift @there) } 1, 2;
    ok wait_for { $backend->stats->{requests} == 2 }, 'old worker killed: it holds the server';
    push @lost, map { begin($port, "/u?n=$_", over => shift @there) } 1 .. 5;
    settle($port, @there);
    my @waiting = map { begin($port, "/u?delay=10&n=$_", over => shift @here, timeout => 6) } 1 .. 10;
    settle($port, @here);
    $nginx->reload;
    is $backend->stats->{requests}, 2, 'old worker killed: others wait, in both old workers';
    kill KILL => $victim;
    ok wait_for { !Keepalive::Nginx::is_alive($victim) }, 'old worker killed: it is dead';
    my $begun = time;
    is statuses(@waiting), '200 x 10', 'old worker killed: those who wait in the other one are served';
    cmp_ok time - $begun, '<', 5, 'old worker killed: soon';
    ok wait_for { !Keepalive::Nginx::is_alive($other) }, 'old worker killed: the other one goes, as it was to';
    is statuses(@lost), '0 x 7', 'old worker killed: what it had is lost';
    # The new workers have the idle connections of the old one now: until then they would open others.
    settle($port, connections_to($port, $_, 2)) for $nginx->workers;
    is statuses(begin_all(map { "/u?delay=20&n=$_" } 1 .. 20)), '200 x 20', 'old worker killed: the new ones serve';
    is $backend->stats->{max_open}, 2, 'old worker killed: within max_conns';
    $nginx->stop;
}

# A server that becomes free while another worker finds it busy is not down. There is no telling when that happens, but
# in so many requests it does.
{
    my $own = free_port();
    my $nginx = workers_nginx(4, { u => "zone u 64k; server 127.0.0.1:$own max_conns=2; queue 100 timeout=20s;" },
        http => "keepalive_requests 1000000; server { listen 127.0.0.1:$own reuseport; return 200; }");
    my $load = Keepalive::Load->start($port, clients => 8, keep_alive => 1, request => sub { '/u' });
    sleep 3;
    my ($answers, @failures) = $load->stop;
    is "@failures", '', 'busy or free: no request fails';
    diag "busy or free: $answers requests";
    unlike $nginx->error_log, qr/no live upstreams/, 'busy or free: the servers are never down';
    $nginx->stop;
}

# Without `zone` each worker has a queue and a limit of its own.
{
    my $nginx = workers_nginx(2, { u => "$limited max_conns=2; keepalive 4; queue 500 timeout=20s;" });
    is statuses(begin_all(map { "/u?delay=2&n=$_" } 1 .. 200)), '200 x 200', 'no zone: all are answered';
    cmp_ok $backend->stats->{max_open}, '<=', 4, 'no zone: each worker keeps to max_conns';
    $nginx->stop;
}

done_testing;
