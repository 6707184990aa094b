# Connections that are being drained take no resources from others: they give way when `worker_connections` run out and when
# their server is removed, and they leave no memory behind.
#
# faults: F15.1 "a hundred are served"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Load;
use Keepalive::Names;
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start;
my $server = 'server ' . $backend->address;

# A server that never ends its answers, and a worker with few connections: nginx first closes connections without a request.
{
    my $nginx = Keepalive::Unread->new($backend, { u => "$server; keepalive 4; keepalive_drain 64k timeout=3s;" }, connections => 40);
    my $begun = time;
    my @statuses = map { $nginx->status('u', 'auth', 'len=1000&fault=hang&at=body') } 1 .. 100;
    is_deeply \@statuses, [(200) x 100], 'worker_connections: a hundred are served';
    cmp_ok time - $begun, '<', 2, 'worker_connections: without waiting for the rest of the answers';
    $nginx->stop;
}

# What a connection needs to be drained is freed each time.
{
    $backend->reset;
    my $nginx = Keepalive::Unread->new($backend, { u => "$server max_conns=1; keepalive 4; queue 10; keepalive_requests 10000;" });
    my ($worker) = $nginx->{nginx}->workers;
    my $ask = sub {
        Keepalive::Load->start($nginx->{port}, clients => 1, requests => 500,
            request => sub { '/u/auth', headers => { 'X-Script' => 'body=OK&drip=1&pieces=1' } })->finish;
    };
    $ask->();
    my $before = memory_of($worker);
    $ask->();
    my $more = memory_of($worker) - $before;
    is $backend->stats->{accepted}, 1, 'memory: a thousand were drained on one connection';
    memory_is_below $more, 100, "memory: $more KB for the second half";
    $nginx->stop;
}

# A server that leaves the upstream while one of its answers is drained: the connection may end that, and goes then.
SKIP: {
    skip 'nginx has no resolve in upstreams before 1.27.3', 1 unless version_at_least('1.27.3');
    my $names = Keepalive::Names->start('127.0.0.1');
    my $port = free_port();
    my ($old, $new) = map { Keepalive::Backend->start(listen => ["127.0.0.$_:$port"]) } 1, 2;
    my $nginx = Keepalive::Unread->new($old, {
        u => "zone u 64k; server servers.test:$port resolve max_conns=1; keepalive 4; keepalive_drain 64k timeout=9s;",
    }, http => "resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;");
    ok wait_for { $nginx->status('u', 'ask', '') == 200 }, 'resolve: the name is resolved';
    is $nginx->status('u', 'auth', 'len=1000&drip=250'), 200, 'resolve: an answer is being drained';
    $names->now_at('127.0.0.2');
    # A request that still chooses the old server waits for it.
    ok wait_for { $nginx->status('u', 'ask', ''); $new->requests > 0 }, 'resolve: the server has left';
    ok wait_for { !$old->stats->{open} }, 'resolve: its connection goes when it has been drained, or before';
    is $nginx->status('u', $_, 'body=OK'), 200, "resolve: the new server is used ($_)" for qw(auth ask);
    is $new->stats->{accepted}, 1, 'resolve: over one connection';
    is $old->stats->{max_open}, 1, 'resolve: as there was to the old one';
    $nginx->stop;
}

done_testing;
