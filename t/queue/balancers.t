# The queue with every balancer: all servers are used up to their max_conns and never beyond, and a waiting request is served by
# the first server that is free, backups included.
#
# faults: F13.7 "one free server serves all"

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

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my $port = free_port();
my ($one, $two, $three) = map { 'server ' . $backend->address($_) } 0 .. 2;
my $both = "$one max_conns=1; $two max_conns=1;";

my %balancers = (
    round_robin       => $both,
    weights           => "$one weight=3 max_conns=1; $two max_conns=1;",
    least_conn        => "least_conn; $both",
    ip_hash           => "ip_hash; $both",
    hash              => "hash \$arg_n; $both",
    hash_consistent   => "hash \$arg_n consistent; $both",
    random            => "random; $both",
    random_two        => "random two; $both",
    random_least_conn => "random two least_conn; $both",
    sticky            => "sticky cookie route; $both",
    least_time        => "least_time header; $both",
    backup            => "$one max_conns=1; $two max_conns=1 backup;",
    down              => "$one max_conns=1; $two max_conns=1; $three down;",
);

sub requests { $backend->stats(0)->{requests} + $backend->stats(1)->{requests} }

for my $name (sort keys %balancers) {
    for my $zone ('', 'zone u 64k;') {
        # Round robin has every combination, the others those two that differ most.
        for my $keepalive ($name eq 'round_robin' ? ('', 'keepalive 4;') : $zone ? 'keepalive 4;' : '') {
            my $title = join ', ', $name, $zone ? 'zone' : (), $keepalive ? 'pool' : ();
            my $nginx = queue_nginx($port, { u => "$balancers{$name} $zone $keepalive queue 100 timeout=20s;" });
            my ($accepted, $said) = $nginx->test;
            if (!$accepted && $said =~ /unknown directive "(?:sticky|least_time)"/) {
                SKIP: { skip "this nginx has no $name", 1 }
                next;
            }
            unlike $said, qr/\[warn\]/, "$title: no warning";
            $nginx->start;
            $backend->reset;

            my @held = map { begin($port, "/u?n=$_&fault=hang&at=start") } 1, 2;
            ok wait_for { requests() == 2 }, "$title: two requests hold the two servers"
                or diag $nginx->error_log;
            is join(' ', map { $backend->stats($_)->{requests} } 0 .. 2), '1 1 0', "$title: one each";
            my @waiting = map { begin($port, "/u?n=$_") } 1 .. 12;
            settle($port);
            is requests(), 2, "$title: all others wait";

            # Only one of the servers becomes free: it serves all that wait.
            (shift @held)->abort;
            is statuses(@waiting), '200 x 12', "$title: one free server serves all";
            is requests(), 14, "$title: each once";

            # Both are in use again, then both become free.
            push @held, begin($port, '/u?n=3&fault=hang&at=start');
            ok wait_for { requests() == 15 }, "$title: both servers are held again";
            @waiting = map { begin($port, "/u?delay=5&n=$_") } 1 .. 20;
            settle($port);
            $_->abort for @held;
            is statuses(@waiting), '200 x 20', "$title: both serve all that wait";
            my @requests = map { $backend->stats($_)->{requests} } 0, 1;
            is $requests[0] + $requests[1], 35, "$title: each once";
            is join(' ', map { $backend->stats($_)->{max_open} } 0 .. 2), '1 1 0', "$title: never more than one connection to each";

            # The balancer's counts are right: two at once still need no queue, whichever way they go.
            my $begun = time;
            is statuses(map { begin($port, "/u?n=$_&delay=100") } 4, 5), '200 x 2', "$title: two at once";
            my @line = log_of($nginx, '/u?n=5&delay=100');
            is $line[0]{queue}, '0.000', "$title: without a wait";
            $nginx->stop;
        }
    }
}

# A backup server without max_conns takes all requests that the others cannot: none waits.
{
    my $nginx = queue_nginx($port, { u => "$one max_conns=1; $two backup; keepalive 4; queue 10;" })->start;
    $backend->reset;
    my $held = begin($port, '/u?fault=hang&at=start');
    ok wait_for { $backend->stats(0)->{requests} == 1 }, 'backup without a limit: the server is held';
    is statuses(map { begin($port, '/u?delay=50') } 1 .. 5), '200 x 5', 'backup without a limit: the others are served';
    is $backend->stats(1)->{requests}, 5, 'by the backup';
    $held->abort;
    settle($port);
    is get($port, '/u')->{status}, 200, 'and the next one again';
    is $backend->stats(0)->{requests}, 2, 'by the server itself';
    $nginx->stop;
}

# A third-party balancer, if Debian's package is installed.
SKIP: {
    my $fair = has_module_file('ngx_http_upstream_fair_module.so') or skip 'no third-party balancer here', 1;
    my $nginx = queue_nginx($port, { u => "$one max_conns=1; $two max_conns=1; fair; queue 10; keepalive 4;" },
        main => "load_module $fair;")->start;
    # It ignores max_conns, so no request has to wait.
    is statuses(map { begin($port, '/u?delay=50') } 1 .. 6), '200 x 6', 'fair: all are answered';
    $nginx->stop;
}

done_testing;
