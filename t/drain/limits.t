# `keepalive_drain` and the other limits: the limits of the pool apply to drained connections, a connection that is being
# drained counts for `max_conns`, and none delays the exit of a worker.
#
# faults: F12.2 "never two at a time"
# faults: F14.2 "the worker exits"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue qw(connections_to statuses);
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start;
my $server = 'server ' . $backend->address;
my $port = free_port();

# An answer whose body takes 300 ms, and one that never ends.
my $slow = 'len=1000&drip=30';
my $endless = 'len=1000&fault=hang&at=body';

my %drain = (drain => 'keepalive_drain 64k timeout=3s;', brief => 'keepalive_drain 64k timeout=300ms;');
my %upstreams = (
    plain    => "$server; keepalive 8;",
    thrice   => "$server; keepalive 8; keepalive_requests 3;",
    short    => "$server; keepalive 8; keepalive_time 300ms;",
    idle     => "$server; keepalive 8; keepalive_timeout 300ms;",
    one      => "$server; keepalive 1; $drain{drain}",
    queued   => "$server max_conns=1; keepalive 4; $drain{drain} queue 100 timeout=20s;",
    parked   => "$server max_conns=1; keepalive 4; $drain{drain}",
    given_up => "$server max_conns=1; keepalive 4; $drain{brief} queue 100 timeout=20s;",
    parked_given_up => "$server max_conns=1; keepalive 4; $drain{brief}",
    four     => "$server max_conns=4; keepalive 4; $drain{drain} queue 200 timeout=20s;",
    zone     => "$server max_conns=1; keepalive 4; $drain{drain} queue 100 timeout=20s; zone z 64k;",
    no_pool  => "$server max_conns=1; keepalive 0; $drain{drain} queue 100 timeout=20s;",
);
my $nginx = Keepalive::Unread->new($backend, \%upstreams, port => $port);

# Without connections from before.
sub anew {
    $backend->drop;
    wait_for { !$backend->stats->{open} } or diag 'not all connections have gone';
    $nginx->settle;
    $backend->reset;
}

# Sends a request that leaves a draining connection, and returns when its answer has arrived.
sub leave { my ($name, $script, $way) = @_; return $nginx->status($name, $way // 'auth', $script) }

# How many connections there were, and how many at a time.
sub connections { my $stats = $backend->stats; return "$stats->{accepted}, $stats->{max_open} at a time" }

# The limits of the pool.
{
    anew();
    leave('thrice', 'body=OK') for 1 .. 3;
    ok wait_for { $backend->stats->{open} == 0 }, 'keepalive_requests: drained once too often';
    leave('thrice', $_) for 'status=204', 'body=OK', 'framing=chunked&len=5000', 'len=50000';
    is $backend->stats->{accepted}, 3, 'keepalive_requests: counts all requests';

    anew();
    leave('short', 'body=OK');
    is +($nginx->who('short'))[0], 1, 'keepalive_time: a young connection is kept';
    sleep 0.35;
    leave('short', 'body=OK');
    ok wait_for { $backend->stats->{open} == 0 }, 'keepalive_time: an old one is not';

    anew();
    my $begun = time;
    leave('idle', $slow);
    ok wait_for { $backend->stats->{open} == 0 }, 'keepalive_timeout: ends a drained connection';
    cmp_ok time - $begun, '>', 0.5, 'keepalive_timeout: begins when it was drained';
    cmp_ok time - $begun, '<', 1.8, 'keepalive_timeout: and is not forgotten';
}

# `keepalive 1`: connections being drained are not idle; the last drained one is.
{
    anew();
    my @requests = map { $nginx->begin('one', 'auth', $slow) } 1, 2;
    is statuses(@requests), '200 x 2', 'keepalive 1: two at once';
    is +($nginx->who('one'))[0], 3, 'keepalive 1: a third one meanwhile';
    is $backend->stats->{open}, 3, 'keepalive 1: all are open';
    ok wait_for { $backend->stats->{open} == 1 }, 'keepalive 1: in the end one is left';
    cmp_ok +($nginx->who('one'))[0], '<', 3, 'keepalive 1: one that was drained';
}

# max_conns=1: the next request gets the connection when it has been drained, with a queue and without.
for my $name (qw(queued parked zone)) {
    anew();
    my $begun = time;
    is leave($name, $slow), 200, "$name: answered without waiting for the rest";
    cmp_ok time - $begun, '<', 0.25, "$name: at once";
    my @order = $nginx->who($name);
    is "@order", '1 2', "$name: the next request has the same connection";
    cmp_ok time - $begun, '>', 0.25, "$name: and waits until it is drained";

    # Without a queue, only one request can wait.
    next if $name eq 'parked';
    anew();
    leave($name, $slow);
    my @waiting = map { $nginx->begin($name, 'ask', '') } 1 .. 10;
    is statuses(@waiting), '200 x 10', "$name: ten wait for it";
    is connections(), '1, 1 at a time', "$name: over the same connection";

    # Each leaves the connection to be drained for the next one.
    anew();
    my @mixed = map { $nginx->begin($name, (qw(auth mirror accel ask))[$_ % 4], $_ % 4 == 3 ? '' : 'len=500&drip=3') } 1 .. 20;
    is statuses(@mixed), '200 x 20', "$name: twenty drain and wait";
    $nginx->settle;
    is connections(), '1, 1 at a time', "$name: all over one connection";
}

# A waiting client that goes leaves the turn to the next one.
{
    anew();
    leave('queued', $slow);
    my ($first, $second) = map { $nginx->begin('queued', 'ask', '') } 1, 2;
    sleep 0.05;
    $first->abort;
    is $second->finish->{status}, 200, 'queued: another one has gone';
    is connections(), '1, 1 at a time', 'queued: its turn was not lost';
}

{
    anew();
    leave('parked', $slow);
    my $first = $nginx->begin('parked', 'ask', '');
    sleep 0.05;
    $first->abort;
    is join(' ', $nginx->who('parked')), '1 2', 'parked: another one has gone';
}

# What cannot be drained in time is closed, and then there is room for a new connection.
for my $name (qw(given_up parked_given_up)) {
    anew();
    my $begun = time;
    leave($name, $endless);
    is join(' ', $nginx->who($name)), '2 1', "$name: the next request has another connection";
    cmp_ok time - $begun, '>', 0.25, "$name: when the time of the first is over";
    cmp_ok time - $begun, '<', 1.5, "$name: and not later";
    is connections(), '2, 1 at a time', "$name: never two at a time";
}

# max_conns=4 and a crowd.
{
    anew();
    my @requests = map { $nginx->begin('four', (qw(auth mirror accel))[$_ % 3], 'len=2000&drip=2') } 1 .. 60;
    is statuses(@requests), '200 x 60', 'four: sixty at once';
    ok wait_for { $backend->stats->{requests} == 60 }, 'four: all are asked for';
    $nginx->settle;
    is connections(), '4, 4 at a time', 'four: over four connections';
    is statuses(map { $nginx->begin('four', 'auth', 'framing=chunked&len=30000') } 1 .. 60), '200 x 60', 'four: and sixty more';
    is connections(), '4, 4 at a time', 'four: over the same';
}

# Without a pool there is nothing to be drained for.
anew();
leave('no_pool', $slow);
is join(' ', $nginx->who('no_pool')), '2 1', 'no_pool: closed, and the next one is served';
is $backend->stats->{max_open}, 1, 'no_pool: one at a time';
$nginx->stop;

# A worker that is to go does not wait for the rest of an answer.
for my $signal (qw(QUIT HUP TERM)) {
    $backend->reset;
    my $going = Keepalive::Unread->new($backend, { long => "$server; keepalive 8; keepalive_drain 64k timeout=20s;" }, port => $port);
    is $going->status('long', $_, $endless), 200, "$signal: one to be drained ($_)" for qw(auth accel);
    is $backend->stats->{open}, 2, "$signal: two connections are being drained";
    my ($worker) = $going->{nginx}->workers;
    my $begun = time;
    $going->{nginx}->signal($signal);
    ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$signal: the worker exits";
    cmp_ok time - $begun, '<', 2, "$signal: at once";
    ok wait_for { !$backend->stats->{open} }, "$signal: the connections are closed";
    $going->{nginx}->stop;
}

# But it serves the requests that wait for the connection, by another one.
for my $queue ('', 'queue 100 timeout=20s;') {
    for my $signal (qw(QUIT HUP)) {
        my $title = $signal . ($queue ? '' : ', no queue');
        $backend->reset;
        my $going = Keepalive::Unread->new($backend, { long => "$server max_conns=1; keepalive 8; keepalive_drain 64k timeout=20s; $queue" },
            port => $port);
        is $going->status('long', 'auth', $endless), 200, "$title: one to be drained";
        my $waits = $going->begin('long', 'ask', '');
        sleep 0.05;
        my ($worker) = $going->{nginx}->workers;
        my $begun = time;
        $going->{nginx}->signal($signal);
        is $waits->finish->{status}, 200, "$title: one that waits is served";
        ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$title: the worker exits";
        cmp_ok time - $begun, '<', 2, "$title: at once";
        is $backend->stats->{max_open}, 1, "$title: one connection at a time";
        $going->{nginx}->stop;
    }
}

# Two workers and a zone: a connection that one of them drains counts for the other one, and makes room for it afterwards.
for my $queue ('', 'queue 100 timeout=20s;') {
    my $title = $queue ? 'two workers' : 'two workers, no queue';
    $backend->reset;
    my $two = Keepalive::Unread->new($backend, { shared => "zone s 64k; $server max_conns=1; keepalive 4; $drain{drain} $queue" },
        port => $port, workers => 2, listen => 'reuseport');
    my ($here, $there) = map { [connections_to($port, $_, 30)] } $two->{nginx}->workers;
    my $script = { 'X-Script' => $slow };
    for my $round (1 .. 2) {
        my ($drains, $waits) = $round % 2 ? ($here, $there) : ($there, $here);
        my $begun = time;
        my $auth = begin($port, '/shared/auth', over => shift @$drains, headers => $script);
        is $auth->finish->{status}, 200, "$title, round $round: one worker drains";
        is begin($port, '/shared/ask', over => shift @$waits)->finish->{status}, 200, "$title, round $round: the other one's request is served";
        cmp_ok time - $begun, '>', 0.25, "$title, round $round: when that is over";
        cmp_ok time - $begun, '<', 2, "$title, round $round: and soon then";
    }
    my @mixed;
    for my $number (1 .. 20) {
        push @mixed, begin($port, $number % 3 ? '/shared/auth' : '/shared/ask', over => shift @{ $number % 2 ? $here : $there },
            headers => { 'X-Script' => 'body=OK&drip=2' });
        # Without a queue, only one request can wait, in both workers together.
        $mixed[-1] = $mixed[-1]->finish unless $queue;
    }
    is statuses(@mixed), '200 x 20', "$title: twenty requests of both";
    is $backend->stats->{max_open}, 1, "$title: never more than one connection at a time";
    $two->{nginx}->stop;
}

done_testing;
