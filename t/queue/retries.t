# Requests that have failed at one server and wait for another: they do not block requests that can use any server, and they do
# not return to a server that they have tried.
#
# faults: F12.1 "refused: the other server serves all that wait"

use strict;
use warnings;

use IO::Socket::UNIX;
use Test::More;
use Time::HiRes qw(time);

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

# The socket of a server that does not listen any more: connections are refused at once.
my $gone = work_dir() . '/gone.sock';
close(IO::Socket::UNIX->new(Local => $gone, Listen => 1) || die "$gone: $!");

my %upstreams = (
    pool    => "$first max_conns=1; $second max_conns=1; keepalive 4; queue 100 timeout=20s;",
    no_pool => "$first max_conns=1; $second max_conns=1; queue 100 timeout=20s;",
    refused => "server unix:$gone max_conns=1 max_fails=0; $second max_conns=1; keepalive 4; queue 100 timeout=20s;",
    quit    => "$first max_conns=2; $second max_conns=1; keepalive 4; keepalive_timeout 1h; queue 100 timeout=20s;",
);

sub nginx {
    my ($zone, %options) = @_;
    return queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        inside => 'proxy_next_upstream error timeout http_500;', %options)->start;
}

sub requests { $backend->requests($_[0]) }

for my $case (['no zone', '', 1], ['zone', 'zone %s 64k;', 1], ['two workers', 'zone %s 64k;', 2]) {
    my ($title, $zone, $workers) = @$case;
    my $nginx = nginx($zone, workers => $workers, listen => $workers > 1 ? 'reuseport' : '');

    # The first server is idle, the second one is occupied: requests that got 500 from the first wait, others do not.
    for my $name (qw(pool no_pool)) {
        afresh($port, $backend);
        my $held = hold_listener($backend, 1, $port, "/$name?fault=hang&at=start");
        my $before = requests(0);
        my @retries = map { begin($port, "/$name?status=500&only=0&n=$_") } 1 .. 5;
        ok wait_for { requests(0) == $before + 5 }, "$title, $name: five requests fail at the first server";
        is statuses(map { get($port, "/$name?other=$_", timeout => 3) } 1 .. 20), '200 x 20',
            "$title, $name: it serves others while these wait";
        is requests(1), 1, "$title, $name: the second server is held all the time";
        $held->abort;
        is statuses(@retries), '200 x 5', "$title, $name: it serves those who wait for it, as soon as it can";
        is_deeply [map { "$_->{addr} $_->{upstream_status}" } log_of($nginx, "/$name?status=500")],
            [($backend->address(0) . ', ' . $backend->address(1) . ' 500, 200') x 5],
            "$title, $name: none of them was at a server twice";
        is $backend->stats($_)->{max_open}, 1, "$title, $name: within max_conns" for 0, 1;
    }

    # Refused at once after a wait: on to the other server.
    {
        afresh($port, $backend);
        my $held = hold_listener($backend, 1, $port, '/refused?fault=hang&at=start');
        my @waiting = map { begin($port, "/refused?delay=10&n=$_") } 1 .. 10;
        $workers == 1 ? settle($port) : select undef, undef, undef, 0.1;
        $held->abort;
        is statuses(@waiting), '200 x 10', "$title, refused: the other server serves all that wait";
        is statuses(map { begin($port, "/refused?delay=10&n=$_") } 11 .. 30), '200 x 20', "$title, refused: and newcomers";
        is statuses(map { get($port, "/refused?n=$_") } 31 .. 35), '200 x 5', "$title, refused: and single ones";
        my $good = $backend->address(1);
        is_deeply [grep { !/^(?:unix:\Q$gone\E, )?\Q$good\E$/ } map { $_->{addr} } log_of($nginx, '/refused?delay')], [],
            "$title, refused: none of them was at a server twice";
    }
    $nginx->stop;
}

# QUIT: a connection is kept for waiting requests; when the last of them has left, the worker does not stay for it.
for my $zone ('', 'zone %s 64k;') {
    my $title = $zone ? 'QUIT, zone' : 'QUIT, no zone';
    my $nginx = nginx($zone);
    my ($worker) = $nginx->workers;
    $backend->reset;
    my $held = hold_listener($backend, 1, $port, '/quit?delay=1500');
    my $before = requests(0);
    my $short = begin($port, '/quit?delay=500');
    my $retry = begin($port, '/quit?status=500&only=0');
    ok wait_for { requests(0) == $before + 2 }, "$title: one request is under way, one is to wait for the other server";
    settle($port);
    $nginx->signal('QUIT');
    is $short->finish->{status}, 200, "$title: the one is served";
    is $backend->stats(0)->{open}, 1, "$title: its connection is kept";
    $retry->abort;
    is $held->finish->{status}, 200, "$title: a request that is under way is served after the other one has left";
    my $answered = time;
    ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$title: the worker exits";
    cmp_ok time - $answered, '<', 2, "$title: soon after";
    $nginx->stop;
}

done_testing;
