# What is told about connections that change workers: the counters of each server and upstream in JSON and in Prometheus' format,
# and $upstream_keepalive_status and the other variables of their requests.
#
# about: status

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($first, $second) = map { $backend->address($_) } 0, 1;
my $port = free_port();
my $status = Keepalive::Status->new($port);

my $variables = 'add_header X-Variables "$upstream_connection_reused|$upstream_connection_requests|$upstream_queue_time" always;';
my %upstreams = (
    one   => "server $first; keepalive 8;",
    two   => "server $first; server $second; keepalive 8;",
    stale => "server $first; keepalive 8; keepalive_check off;",
    off   => "server $first; keepalive 8; keepalive_handover off;",
    queue => "zone queue 64k; server $first max_conns=1; keepalive 8; queue 10 timeout=10s;",
    no_pool => "server $first; keepalive 0;",
);
my $nginx = handover_nginx($port, \%upstreams, inside => $variables)->start;
my ($here, $there) = clients_of($port, $nginx);

sub empty {
    $backend->drop;
    wait_for { !$backend->stats->{open} && !$backend->stats(1)->{open} };
    settled();
}

# The status and the other variables of an answer.
sub told {
    my ($client, $path, %options) = @_;
    my $answer = ask($client, $path, %options);
    return "$answer->{told}|" . ($answer->{headers}{'x-variables'} // '');
}

# Everything is zero at first, and each name is there.
{
    my $json = $status->json;
    for my $name (sort keys %upstreams) {
        my $upstream = $json->{upstreams}{$name};
        is handed($upstream), 'nothing', "$name: nothing at first";
        is_deeply $upstream->{handover}, { in_transit => 0, asked => 0, answered => 0,
            dropped => { map { $_ => 0 } qw(disabled server protocol limit closed expired resources invalid) } }, "$name: all names are there";
        is_deeply [map { "$_->{given} $_->{taken}" } @{ $upstream->{peers} }], [('0 0') x @{ $upstream->{peers} }], "$name: in each server";
    }
}

# One connection, back and forth.
for my $attempt (1 .. 5) {
    empty();
    my $before = $status->json->{upstreams}{one};
    my @told = map { settled(); ask($_, '/one') } $here, $there, $there, $here;
    next if $attempt < 5 && grep { is_late($_) } @told[1 .. 3];
    is join(' ', map { $_->{told} } @told), 'MISS TAKEN HIT TAKEN', 'back and forth: the first request in each worker';
    is join(' ', map { $_->{headers}{'x-variables'} } @told), '0|1|0.000 1|2|0.000 1|3|0.000 1|4|0.000', 'back and forth: reused, and requests go on counting';
    my $now = $status->json->{upstreams}{one};
    is_deeply { map { $_ => $now->{$_} - $before->{$_} } qw(opened reused given taken requests) },
        { opened => 1, reused => 3, given => 2, taken => 2, requests => 4 }, 'back and forth: the counters';
    is_deeply { map { $_ => $now->{handover}{$_} - $before->{handover}{$_} } qw(asked answered in_transit) },
        { asked => 2, answered => 2, in_transit => 0 }, 'back and forth: questions and answers';
    my ($peer) = @{ $now->{peers} };
    is "$peer->{given} $peer->{taken}", "$now->{given} $now->{taken}", 'back and forth: the only server has the same';
    my $metrics = $status->metrics;
    my %of = (upstream => 'one', server => $first);
    is $metrics->{ Keepalive::Status::sample("nginx_upstream_keepalive_${_}_total", %of) }, $now->{$_}, "Prometheus: $_" for qw(opened given taken);
    is $metrics->{ Keepalive::Status::sample("nginx_upstream_keepalive_${_}_total", upstream => 'one') }, $now->{handover}{$_}, "Prometheus: $_"
        for qw(asked answered);
    is $metrics->{ Keepalive::Status::sample('nginx_upstream_keepalive_in_transit', upstream => 'one') }, 0, 'Prometheus: in transit';
    is $metrics->{ Keepalive::Status::sample('nginx_upstream_keepalive_dropped_total', upstream => 'one', reason => $_) }, 0, "Prometheus: dropped $_"
        for qw(disabled server protocol limit closed expired resources invalid);
    last;
}

# Two servers: each has its own numbers.
in_turn(\&empty, 'MISS MISS TAKEN TAKEN', 'two servers: both connections change workers', map { [$_, '/two'] } $here, $here, $there, $there);
is_deeply [map { $_->{given} == $_->{taken} && $_->{given} > 0 ? 'some' : "$_->{given} $_->{taken}" } @{ $status->json->{upstreams}{two}{peers} }],
    ['some', 'some'], 'two servers: each counts them';
is $status->json->{upstreams}{two}{given}, $status->json->{upstreams}{two}{peers}[0]{given} + $status->json->{upstreams}{two}{peers}[1]{given},
    'two servers: the upstream has the sum';

# Where nothing is handed over nobody is asked, nor where there was no connection yet.
is told($here, '/off'), 'MISS|0|1|0.000', 'off: a new connection';
settled();
is told($there, '/off'), 'MISS|0|1|0.000', 'off: another one';
is told($here, '/no_pool'), 'BYPASS|0|1|0.000', 'no pool';
is join(' ', map { $status->json->{upstreams}{$_}{handover}{asked} } qw(off no_pool stale queue)), '0 0 0 0', 'nobody was asked there';

# A question in vain: the server has closed the connection meanwhile.
{
    empty();
    is told($here, '/stale'), 'MISS|0|1|0.000', 'in vain: a connection';
    empty();
    my $before = $status->json->{upstreams}{stale}{handover};
    my $first = ask($there, '/stale');
    is $first->{told}, 'MISS', 'in vain: the server has closed it, so there is a new one';
    my $now = $status->json->{upstreams}{stale}{handover};
    is $now->{asked} - $before->{asked}, 1, 'in vain: another worker was asked';
    is $now->{answered} - $before->{answered}, 0, 'in vain: and had nothing';
}

# A stale connection from another worker.
{
    empty();
    my @requests = ([$here, '/stale'], [$there, '/stale?fault=close&at=start&from=2']);
    for my $attempt (1 .. 5) {
        my @answers = map { settled(); ask(@$_) } @requests;
        my $told = $answers[1]{told};
        empty(), next if $attempt < 5 && is_late($answers[1]);
        is $told, 'STALE, MISS', 'stale: a connection from another worker, then a new one';
        is $answers[1]{headers}{'x-variables'}, '1, 0|2, 1|0.000, 0.000', 'stale: so say the other variables';
        last;
    }
    my $numbers = $status->json->{upstreams}{stale};
    cmp_ok $numbers->{stale}, '>=', 1, 'stale: counted';
}

# A request that waits in the queue, for a connection of another worker.
{
    empty();
    my $held = begin($port, '/queue?delay=300', over => (connections_to($port, $here->{pid}, 1))[0]);
    wait_for { $status->json->{upstreams}{queue}{active} == 1 };
    my $waits = begin($port, '/queue', over => (connections_to($port, $there->{pid}, 1))[0]);
    $held->finish;
    my $answer = $waits->finish;
    is $answer->{headers}{'x-told'}, 'TAKEN', 'queue: the request has waited, and has the connection of another worker';
    like $answer->{headers}{'x-variables'}, qr/^1\|2\|0\.\d+$/, 'queue: its connection was used before';
    become($status, 'queue', 'given 1, taken 1', 'queue: it was handed over');
    is $status->json->{upstreams}{queue}{opened}, 1, 'queue: one connection was opened';
    is $status->json->{upstreams}{queue}{handover}{asked}, 0, 'queue: without a question';
}

$status->consistent('JSON and Prometheus agree');
my $before = $status->json->{upstreams}{one};
reload_to_end($nginx);
$status->consistent('and after a reload');
my $after = $status->json->{upstreams}{one};
is $after->{opened}, $before->{opened}, 'a reload opens nothing';
is $after->{given} - $before->{given}, $before->{keepalive}, 'and gives what is idle';
is $after->{handover}{asked}, $before->{handover}{asked}, 'questions are kept';
like $status->text('html'), qr/given/, 'the page shows what was given';

$nginx->stop;
done_testing;
