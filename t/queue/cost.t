# What waiting costs a worker: it checks other processes at most once a second, however many waits time out, and neither a wait
# that times out, nor a request that waits for a server it has not tried, causes a search of all servers.
#
# faults: F13.8 "nobody has looked at workers that answer" "but once a second"
# faults: F13.8 "with 500 servers it takes less than three times as long"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
my ($first, $second) = map { 'server ' . $backend->address($_) . ' max_fails=0' } 0, 1;

# How long a process was on a processor, in milliseconds.
sub processor_time {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/schedstat" or die "/proc/$pid/schedstat: $!";
    return (split ' ', <$in>)[0] / 1e6;
}

SKIP: {
    my $library = work_dir() . '/count-stat.so';
    skip 'no C compiler', 1 if system("cc -Wall -shared -fPIC -o $library t/lib/count-stat.c -ldl >$library.log 2>&1") != 0;
    skip 'the sanitizers do not like LD_PRELOAD', 1 if is_sanitized();
    my $opened = work_dir() . '/opened';
    my @within = ('env', "LD_PRELOAD=$library", "COUNT_STAT=$opened");
    my $workers = 8;
    my $nginx = queue_nginx($port, { u => "zone u 256k; $first max_conns=1; queue 1000 timeout=50ms;" },
        workers => $workers, within => \@within, listen => 'reuseport')->start;
    my @all = $nginx->workers;
    my ($there) = connections_to($port, $all[0], 1);
    $backend->reset;
    my $held = begin($port, '/u?fault=hang&at=start', over => $there);
    ok wait_for { $backend->stats->{requests} == 1 }, 'a request holds the server';
    my $at_start = -s $opened;
    cmp_ok $at_start, '>=', $workers, 'the workers have looked who they are';
    my $begun = time;
    my @answers = map { map { $_->finish } map { begin($port, "/u?n=$_") } 1 .. 10 } 1 .. 40;
    my $seconds = time - $begun;
    is statuses(@answers), '502 x 400', 'four hundred waits are too long';
    my $looked = (-s $opened) - $at_start;
    note sprintf '%d looks in %.1f s', $looked, $seconds;
    cmp_ok $looked, '<=', 2 * $workers, 'nobody has looked at workers that answer';

    # One that does not, and has what others wait for, is looked at by each of these, once a second.
    $nginx->signal(STOP => $all[0]);
    ($at_start, $begun) = (-s $opened, time);
    do {
        my @waiting = map { begin($port, "/u?m=$_") } 1 .. 20;
        sleep 0.2;
        $_->abort for @waiting;
        ($seconds, $looked) = (time - $begun, (-s $opened) - $at_start);
    } until $seconds > 4 && $looked || $seconds > 30;
    note sprintf '%d looks in %.1f s', $looked, $seconds;
    cmp_ok $looked, '>=', 1, 'one that is stopped is looked at';
    cmp_ok $looked, '<=', ($workers - 1) * ($seconds + 2), 'but once a second';
    $nginx->signal(CONT => $all[0]);
    $held->abort;
    $nginx->stop;
}

# The first server has answered 500 to a thousand requests, which wait for the second one; all others are down.
sub time_with_servers {
    my ($number) = @_;
    my $down = join ' ', map { "server 127.0.0.1:$_ down;" } 3 .. $number;
    my $nginx = queue_nginx($port, { u => "$first; $second max_conns=1; $down keepalive 4; queue 2000 timeout=60s;" },
        inside => 'proxy_next_upstream error timeout http_500;', main => 'worker_rlimit_nofile 8192;')->start;
    my ($worker) = $nginx->workers;
    $backend->reset;
    my $held = hold_listener($backend, 1, $port, '/u?fault=hang&at=start');
    my $before = $backend->requests(0);
    my @retries = map { begin($port, "/u?status=500&only=0&n=$_", timeout => 60) } 1 .. 1000;
    ok wait_for { $backend->requests(0) == $before + 1000 }, "$number servers: a thousand wait for another server";
    settle($port);
    my $time = processor_time($worker);
    is statuses(map { get($port, "/u?other=$_") } 1 .. 200), '200 x 200', "$number servers: others are served meanwhile";
    $time = processor_time($worker) - $time;
    $held->abort;
    is statuses(@retries), '200 x 1000', "$number servers: in the end they are";
    is $backend->stats(1)->{max_open}, 1, "$number servers: within max_conns";
    $nginx->stop;
    return $time;
}

my ($few, $many) = map { time_with_servers($_) } 3, 500;
note sprintf 'processor time of 200 requests while 1000 wait: 3 servers %.1f ms, 500 servers %.1f ms', $few, $many;
cmp_ok $many, '<', 3 * $few, 'with 500 servers it takes less than three times as long';

# One request after another waits for a server that is busy, and is timed out; all others are down.
sub time_of_waits {
    my ($number) = @_;
    my $down = join ' ', map { "server 127.0.0.1:$_ down;" } 3 .. $number;
    my $nginx = queue_nginx($port, { u => "$first max_conns=1; $down queue 2000 timeout=200ms;" },
        main => 'worker_rlimit_nofile 8192;')->start;
    my ($worker) = $nginx->workers;
    $backend->reset;
    my $held = begin($port, '/u?fault=hang&at=start');
    ok wait_for { $backend->stats->{requests} == 1 }, "$number servers: a request holds the only one that is up";
    my @waits;
    my $time = processor_time($worker);
    for (1 .. 600) {
        push @waits, begin($port, "/u?n=$_");
        sleep 0.001;
    }
    is statuses(@waits), '502 x 600', "$number servers: six hundred waits are too long";
    $time = processor_time($worker) - $time;
    $held->abort;
    $nginx->stop;
    return $time;
}

($few, $many) = map { time_of_waits($_) } 3, 30000;
note sprintf 'processor time of 600 waits that time out: 3 servers %.1f ms, 30000 servers %.1f ms', $few, $many;
cmp_ok $many, '<', 2 * $few, 'with 30000 servers they take less than twice as long';

done_testing;
