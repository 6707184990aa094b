# `server NAME resolve` while requests wait: new addresses serve them, and they do not wait for removed ones.
#
# faults: F13.4 "they are served by a server that appears" "a server that takes its place serves those who wait"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no resolve in upstreams before 1.27.3' unless version_at_least('1.27.3');

my ($port, $backend_port) = map { free_port() } 1 .. 2;
my @backends = map { Keepalive::Backend->start(listen => ["127.0.0.$_:$backend_port"]) } 1 .. 3;
my $names = Keepalive::Names->start('127.0.0.1');

my $server = "server servers.test:$backend_port resolve max_conns=1;";
my $nginx = queue_nginx($port, {
    pool    => "zone pool 64k; $server keepalive 4; keepalive_timeout 600s; queue 100 timeout=20s;",
    hash    => "zone hash 64k; hash \$arg_n consistent; $server queue 100 timeout=20s;",
}, http => 'resolver 127.0.0.1:' . $names->port . ' valid=1s ipv6=off;')->start;

sub served { join ' ', map { $_->stats->{requests} } @backends }
sub max_open { join ' ', map { $_->stats->{max_open} } @backends }

# Waits until the upstream has exactly these servers: each answers, one request after the other.
sub known {
    my ($name, @wanted) = @_;
    $names->now_at(map { "127.0.0.$_" } @wanted);
    return wait_for {
        # One of them may still be held, so this does not wait for all connections to end.
        $_->drop for @backends;
        sleep 0.1;
        $_->reset for @backends;
        my $good = grep { get($port, "/$name?n=$_")->{status} == 200 } 1 .. 12;
        my @used = grep { $backends[$_ - 1]->stats->{requests} } 1 .. 3;
        $good == 12 && "@used" eq "@wanted";
    };
}

for my $name (qw(pool hash)) {
    ok known($name, 1), "$name: one server";

    # A second server appears: it serves the waiting requests, although the first one is still occupied.
    afresh($port, @backends);
    my $held = begin($port, "/$name?fault=hang&at=start");
    ok wait_for { $backends[0]->stats->{requests} == 1 }, "$name: the only server is held";
    my @waiting = map { begin($port, "/$name?n=$_") } 1 .. 10;
    settle($port);
    is served(), '1 0 0', "$name: ten wait";
    $names->now_at('127.0.0.1', '127.0.0.2');
    my $begun = time;
    is statuses(@waiting), '200 x 10', "$name: they are served by a server that appears";
    cmp_ok time - $begun, '<', 6, "$name: soon";
    is served(), '1 10 0', "$name: all by the new one";

    # The occupied server is removed while requests wait: the remaining one serves them.
    my $other = begin($port, "/$name?delay=500");
    ok wait_for { served() eq '1 11 0' }, "$name: both are held";
    @waiting = map { begin($port, "/$name?n=$_") } 1 .. 5;
    $names->now_at('127.0.0.2');
    is statuses(@waiting), '200 x 5', "$name: the one that stays serves those who wait";
    is $other->finish->{status}, 200, "$name: the request under way is answered";

    # All servers are replaced by another one while requests wait.
    $held->abort;
    ok known($name, 2), "$name: one server again";
    afresh($port, @backends);
    $held = begin($port, "/$name?fault=hang&at=start");
    ok wait_for { $backends[1]->stats->{requests} == 1 }, "$name: it is held";
    @waiting = map { begin($port, "/$name?n=$_") } 1 .. 5;
    settle($port);
    $names->now_at('127.0.0.3');
    is statuses(@waiting), '200 x 5', "$name: a server that takes its place serves those who wait";
    is served(), '0 1 5', "$name: none of them went to the old one";
    is max_open(), '0 1 1', "$name: never more than one connection to each";
    $held->abort;
    ok wait_for { $backends[1]->stats->{open} == 0 }, "$name: no connection to the old one is left";
}

# No address at all, while requests wait: that is "no live upstreams".
{
    ok known('pool', 1), 'one server';
    afresh($port, @backends);
    my $held = begin($port, '/pool?fault=hang&at=start');
    ok wait_for { $backends[0]->stats->{requests} == 1 }, 'it is held';
    my @waiting = map { begin($port, "/pool?n=$_") } 1 .. 3;
    settle($port);
    $names->now_at('127.0.0.9');
    is statuses(@waiting), '502 x 3', 'an address that refuses: those who wait go there, and fail';
    $held->abort;
    ok known('pool', 1), 'and the server comes back';
}

$nginx->stop;
done_testing;
