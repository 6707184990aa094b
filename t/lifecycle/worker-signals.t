# A single worker is told to exit, or crashes: its successor has all slots of max_conns, and the shared counters show that what
# the old worker held has ended.
#
# faults: F12.3 "four places can be used at once"
# faults: F14.3 "SEGV"
# faults: F14.5 "nothing is idle, active or waits"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $nginx = queue_nginx($port, { u => 'zone u 64k; server ' . $backend->address . ' max_conns=4; keepalive 4; queue 10 timeout=20s;' },
    main => 'worker_rlimit_core 0;', locations => 'location = /status { access_log off; keepalive_status; }')->start;
my $status = Keepalive::Status->new($port);

sub upstream { return $status->json->{upstreams}{u} }

my $lost = 0;
# Of these sanitizers make reports of their own.
my @crashes = is_sanitized() ? () : qw(SEGV ABRT BUS);
for my $signal (qw(QUIT TERM), @crashes, 'KILL') {
    $nginx->allow(qr/exited on signal/);
    # Four requests hold all places, for ever unless the worker waits for them, and two wait.
    my ($worker) = $nginx->workers;
    my $before = $backend->stats->{requests};
    my $hangs = $signal eq 'QUIT' ? 'delay=400' : 'fault=hang&at=start';
    my @held = map { begin($port, "/u?$hangs&n=$_") } 1 .. 4;
    ok wait_for { $backend->stats->{requests} == $before + 4 }, "$signal: four requests hold the server";
    my @waiting = map { begin($port, "/u?n=$_") } 1, 2;
    ok wait_for { upstream()->{queue}{size} == 2 }, "$signal: two wait";
    is upstream()->{active}, 4, "$signal: as the numbers say";
    kill $signal => $worker;
    ok wait_for { my ($new) = $nginx->workers; $new && $new != $worker }, "$signal: a new worker is there";
    is statuses(@held, @waiting), $signal eq 'QUIT' ? '200 x 6' : '0 x 6', "$signal: what the old one had "
        . ($signal eq 'QUIT' ? 'is served' : 'is lost');
    ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$signal: it is gone";
    ok wait_for { !$backend->stats->{open} }, "$signal: its connections are closed";
    my $now = upstream();
    is join(' ', @$now{qw(keepalive active draining)}, $now->{queue}{size}), '0 0 0 0', "$signal: nothing is idle, active or waits";
    is $now->{opened}, $backend->stats->{accepted}, "$signal: what it has opened is counted";
    is $status->json->{workers}, 1, "$signal: one worker";
    # The end of a wait that was lost is unknown.
    $lost += 2 if $signal ne 'QUIT';
    is $now->{queue}{requests} - $now->{queue}{wait}{count}, $lost, "$signal: all other waits were timed";
    is join(' ', grep { !/waits that have ended/ } Keepalive::Status::contradictions($status->json)), '', "$signal: all agrees";

    # The places.
    @held = map { begin($port, "/u?delay=300&n=$_") } 1 .. 4;
    ok wait_for { upstream()->{active} == 4 }, "$signal: four places can be used at once";
    my $fifth = begin($port, '/u');
    ok wait_for { upstream()->{queue}{size} == 1 }, "$signal: a fifth one waits";
    is statuses(@held, $fifth), '200 x 5', "$signal: all are served";
    ok wait_for { my $u = upstream(); $u->{keepalive} == 4 && !$u->{active} }, "$signal: four are idle";
    is $backend->stats->{max_open}, 4, "$signal: never more than four at a time";
}
$nginx->stop;
ok wait_for { !$backend->stats->{open} }, 'no connection is left';
done_testing;
