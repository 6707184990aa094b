# Workers are killed while connections change workers: no place at the server is lost or there twice, no connection stays open
# that nobody has, and no descriptor is left.
#
# faults: F12.3 "a fifth one is one too many"
# faults: F14.3 "all killed workers are replaced"
# faults: F21.1 "within the limit while workers are killed" "the new workers have all connections that are open"

use strict;
use warnings;

use List::Util qw(shuffle sum0);
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $status = Keepalive::Status->new($port);
my $server = 'server ' . $backend->address;

# Kills workers, and waits for others in their places. A dead one may be listed until the master has seen it.
sub kill_workers {
    my ($nginx, @victims) = @_;
    my %victim = map { $_ => 1 } @victims;
    kill KILL => @victims;
    return wait_for { $nginx->{workers} == grep { !$victim{$_} } $nginx->workers };
}

# The contradictions in what was handed over: what has arrived is not more than what was given.
sub wrong {
    my ($upstream) = @_;
    my $handover = $upstream->{handover};
    my $arrived = $upstream->{taken} + sum0(values %{ $handover->{dropped} });
    return $upstream->{given} == $arrived + $handover->{in_transit} ? '' : handed($upstream);
}

# Under load, with a queue and without one.
for my $queue ('queue 200 timeout=20s;', '') {
    my $title = $queue ? 'under load' : 'under load, no queue';
    $backend->reset;
    my $nginx = handover_nginx($port, { u => "zone u 64k; $server max_conns=4 max_fails=0; keepalive 4; $queue" }, workers => 4)->start;
    $nginx->allow(qr/exited on signal 9/);
    is ask_all($port, '/u', 4), '200 x 4', "$title: four requests";
    my $descriptors = $nginx->descriptors($nginx->pid);
    my $load = Keepalive::Load->start($port, clients => 12, request => sub { '/u?delay=2' });
    my $rounds = 12;
    my $replaced = 0;
    for my $round (1 .. $rounds) {
        $load->wait_for_more(40) or diag "$title: no progress in round $round";
        my @workers = shuffle $nginx->workers;
        $replaced += kill_workers($nginx, @workers[$round % 4 ? 0 : (0, 1)]) ? 1 : 0;
    }
    is $replaced, $rounds, "$title: all killed workers are replaced";
    ok $load->wait_for_more(100), "$title: it goes on";
    my ($answers, @failures) = $load->stop;
    my @others = grep { !/^incomplete 0 / && ($queue || !/^502 /) } @failures;
    is "@others", '', "$title: only requests of killed workers fail";
    is $backend->stats->{max_open}, 4, "$title: within the limit while workers are killed";
    ok wait_for { !$backend->stats->{busy} }, "$title: the server has nothing more to do";
    my $told = $status->json->{upstreams}{u};
    diag sprintf '%s: %d of %d requests lost, %s; %s', $title, scalar @failures, $answers, Keepalive::Status::told($told), handed($told);
    # No place is lost, and none is there twice.
    for my $round (1 .. 3) {
        is ask_all($port, '/u', 4, 150), '200 x 4', "$title: four at once";
        my $five = ask_all($port, '/u', 5, 200);
        is $five, $queue ? '200 x 5' : '200 x 4, 502 x 1', "$title: a fifth one is one too many";
    }
    is $backend->stats->{max_open}, 4, "$title: never more than four connections";
    my ($wrong, $open, $idle);
    ok wait_for { !($wrong = wrong($status->json->{upstreams}{u})) }, "$title: what was given has arrived, was dropped or is lost" or diag $wrong;
    ok wait_for { ($open = $backend->stats->{open}) == ($idle = $status->json->{upstreams}{u}{keepalive}) }, "$title: the idle connections are those that are open"
        or diag "$open open, $idle idle";
    is established($backend->port), sum0(idle_in($backend->port, $nginx->workers)), "$title: workers have all that are open";
    ok wait_for { $nginx->descriptors($nginx->pid) == $descriptors }, "$title: the master has as many descriptors as before"
        or diag $nginx->descriptors($nginx->pid) . " instead of $descriptors";
    # Also those that nobody has read are closed with nginx.
    my @workers = $nginx->workers;
    $backend->drop;
    ok wait_for { $descriptors + 8 > (sort { $b <=> $a } map { $nginx->descriptors($_) } @workers)[0] }, "$title: no worker has many descriptors"
        or diag join ' ', map { $nginx->descriptors($_) } @workers;
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# All workers at once, again and again.
{
    my $title = 'all at once';
    $backend->reset;
    my $nginx = handover_nginx($port, { u => "zone u 64k; $server max_conns=4 max_fails=0; keepalive 4; queue 200 timeout=20s;" }, workers => 4)->start;
    $nginx->allow(qr/exited on signal 9/);
    for my $round (1 .. 5) {
        my $before = $backend->stats->{requests};
        my @requests = map { begin($port, "/u?delay=5&n=$_") } 1 .. 100;
        wait_for { $backend->stats->{requests} > $before + 20 };
        ok kill_workers($nginx, $nginx->workers), "$title, round $round: all killed workers are replaced";
        $_->abort for @requests;
        is ask_all($port, '/u', 8, 50), '200 x 8', "$title, round $round: eight requests";
    }
    cmp_ok $backend->stats->{max_open}, '<=', 4, "$title: never more than four connections";
    is ask_all($port, '/u', 5, 100), '200 x 5', "$title: five requests";
    is wrong($status->json->{upstreams}{u}), '', "$title: the counters agree";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# Around a reload: a worker that has connections to give, or one that takes them.
for my $who ('an old worker', 'a new worker', 'all old workers', 'all new workers') {
    $backend->reset;
    my $nginx = handover_nginx($port, { u => "$server max_fails=0; keepalive 16;" }, workers => 2)->start;
    $nginx->allow(qr/exited on signal 9/);
    is ask_all($port, '/u', 12), '200 x 12', "$who: twelve connections";
    my $load = Keepalive::Load->start($port, clients => 4, request => sub { '/u?delay=2' });
    for my $round (1 .. 3) {
        ok $load->wait_for_more(50), "$who, round $round: under load";
        my %old = map { $_ => 1 } my @old = $nginx->workers;
        $nginx->signal('HUP');
        if ($who =~ /old/) {
            # They begin to give when there are new ones.
            wait_for { grep { !$old{$_} } $nginx->workers };
            kill KILL => $who =~ /all/ ? @old : $old[$round % 2];
        }
        else {
            my @new;
            wait_for { 2 == (@new = grep { !$old{$_} } $nginx->workers) };
            kill KILL => $who =~ /all/ ? @new : $new[$round % 2];
        }
        ok is_gone(@old), "$who, round $round: the old workers are gone";
        ok wait_for { 2 == grep { Keepalive::Nginx::is_alive($_) && !$old{$_} } $nginx->workers }, "$who, round $round: there are two workers";
    }
    ok $load->wait_for_more(50), "$who: it goes on";
    my ($answers, @failures) = $load->stop;
    is join(' ', grep { !/^incomplete 0 / } @failures), '', "$who: only requests of killed workers fail";
    cmp_ok scalar @failures, '<=', 24, "$who: and few of $answers do";
    my ($open, $idle);
    ok wait_for { ($open = $backend->stats->{open}) == ($idle = $status->json->{upstreams}{u}{keepalive}) }, "$who: the idle connections are those that are open"
        or diag "$open open, $idle idle";
    is wrong($status->json->{upstreams}{u}), '', "$who: what was given has arrived, was dropped or is lost";
    reload_to_end($nginx);
    ok wait_for { $open == sum0(idle_in($backend->port, $nginx->workers)) }, "$who, the next reload: the new workers have all connections that are open";
    my $first = $nginx->descriptors($nginx->pid);
    reload_to_end($nginx) for 1, 2;
    ok wait_for { $nginx->descriptors($nginx->pid) == $first }, "$who: the master has as many descriptors after two more"
        or diag $nginx->descriptors($nginx->pid) . " instead of $first";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$who: no connection is left";
}

done_testing;
