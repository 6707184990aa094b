# A binary upgrade that is taken back while old workers still finish requests: then two processes with the same number share the
# memory of a configuration. The old one counts there, and the new one by itself.
#
# faults: F14.4 "all are answered"
# faults: F14.5 "the old workers still count"

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
my $status = Keepalive::Status->new($port);

sub upstream { return $status->json->{upstreams}{u} }

# Two requests hold the old workers, the upgrade is taken back, and they end.
sub rollback {
    my ($title, %how) = @_;
    $backend->reset;
    my $nginx = queue_nginx($port,
        { u => "zone u 64k; server @{[ $backend->address ]} max_conns=4; keepalive 4; queue 100 timeout=5s;" },
        workers => 2, locations => 'location = /status { keepalive_status; }')->start;
    my %is_old = map { $_ => 1 } $nginx->workers;
    my @held = map { begin($port, "/u?fault=hang&at=start&n=$_", timeout => 60) } 1, 2;
    ok wait_for { $backend->stats->{requests} == 2 }, "$title: two requests run in the old workers";
    my %is_busy = map { $_ => 1 } grep { established($backend->port, $_) } keys %is_old;

    my $old = $nginx->pid;
    $nginx->signal('USR2', $old);
    ok wait_for { ($nginx->pid('.oldbin') // 0) == $old && ($nginx->pid // $old) != $old }, "$title: the new master is there";
    my $new = $nginx->pid;
    ok wait_for { $nginx->workers($new) == 2 }, "$title: and so are its workers";
    my $beside = sub { return grep { !$is_old{$_} } $nginx->workers($old) };
    if ($how{winch}) {
        $nginx->signal('WINCH', $old);
        ok wait_for { $nginx->error_log =~ /gracefully shutting down/ }, "$title: the old workers accept no more";
    }
    if ($how{hup}) {
        $nginx->signal('HUP', $old);
        ok wait_for { $beside->() == 2 }, "$title: the old master has workers again";
    }
    $nginx->signal('QUIT', $new);
    ok wait_for { !Keepalive::Nginx::is_alive($new) }, "$title: the new master is gone";
    ok wait_for { $beside->() == 2 }, "$title: the old master has two more workers";
    ok wait_for { ($nginx->pid // 0) == $old }, "$title: its pid file is back";
    is scalar(grep { Keepalive::Nginx::is_alive($_) } keys %is_busy), keys %is_busy, "$title: beside the old ones";
    # One without a request may be gone already.
    my $said = sub { return scalar(() = $nginx->error_log =~ /\[notice\].* counts "max_conns" alone/g) };
    ok wait_for { $said->() >= keys %is_busy }, "$title: those beside them say that they count alone";

    # Half of the limit is in use.
    is statuses(map { get($port, "/u?n=$_") } 1 .. 20), '200 x 20', "$title: requests are answered";
    is statuses(map { begin($port, "/u?delay=20&n=$_", timeout => 20) } 1 .. 20), '200 x 20', "$title: and many at once";
    ok wait_for { upstream()->{active} == 2 }, "$title: the old workers still count" or diag explain upstream();
    cmp_ok $backend->stats->{max_open}, '<=', 3 * 4, "$title: each kind of worker keeps to the limit";

    $_->abort for @held;
    if ($how{winch}) {
        ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } keys %is_old }, "$title: the old workers are gone";
    }
    ok wait_for { upstream()->{active} == 0 }, "$title: no request is active" or diag explain upstream();
    my $number = $how{winch} ? 2 : 4;
    ok wait_for { $status->json->{workers} == $number }, "$title: so many workers count: $number" or diag $status->json->{workers};
    is statuses(map { begin($port, "/u?delay=20&n=$_", timeout => 20) } 1 .. 40), '200 x 40', "$title: all are answered";
    cmp_ok established($backend->port, $_), '<=', 4, "$title: a worker has no more connections than the limit" for $nginx->workers;
    $status->consistent("$title: all numbers agree");
    my $requests = upstream()->{requests};

    # They count together again.
    my @before = $nginx->workers;
    $nginx->signal('HUP');
    ok wait_for { my %now = map { $_ => 1 } $nginx->workers; keys %now == 2 && !grep { $now{$_} } @before }, "$title: reloaded";
    ok wait_for { $backend->stats->{open} <= 4 }, "$title: the connections of all but the last workers are closed";
    $backend->reset;
    is statuses(map { begin($port, "/u?delay=20&n=$_", timeout => 20) } 1 .. 40), '200 x 40', "$title, reloaded: all are answered";
    cmp_ok $backend->stats->{max_open}, '<=', 4, "$title, reloaded: the limit is that of all workers";
    is upstream()->{requests}, $requests + 40, "$title, reloaded: the counts go on";
    $status->consistent("$title, reloaded: all numbers agree");
    $nginx->stop;
}

rollback('taken back', winch => 1, hup => 1);
rollback('the new master ends', winch => 1);
rollback('both serve', hup => 1);

done_testing;
