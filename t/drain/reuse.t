# Thousands of requests, each with a subrequest whose answer has a body: no more connections than clients need, whatever the
# answer looks like, and exactly as many as `max_conns` allows.
#
# faults: F20.1 "requests are answered"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Queue qw(statuses);
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $clients = 100;

my $backend = Keepalive::Backend->start;
my $nginx = Keepalive::Unread->new($backend, {
    pool  => 'server ' . $backend->address . '; keepalive 128;',
    queue => 'server ' . $backend->address . ' max_conns=4; keepalive 4; queue 2000 timeout=60s;',
}, connections => 4096);
my $process = $nginx->{nginx};

# Each: how the answer is left unread, what it is, and what the client gets.
my $delay = 'delay=20';
for my $case (
    ['auth',      'status=204',                                                           200],
    ['auth',      'body=OK',                                                              200],
    ['auth',      'framing=chunked&body=OK',                                              200],
    ['auth',      'status=401&header=Content-Type:application/json&body={"error":"login"}', 401],
    ['auth',      'status=403&header=Content-Type:application/json&body={"error":"no"}',  403],
    ['mirror',    'body=OK',                                                              200],
    ['accel',     'body=OK',                                                              200],
    ['intercept', 'status=404&body=none',                                                 200],
) {
    my ($way, $script, $status) = @$case;
    my $each = $way eq 'auth' && $status == 200 ? 50 : 20;
    my $total = $clients * $each;
    $_->drop for $backend, $nginx->{pages};
    ok wait_for { !$backend->stats->{open} && !$nginx->{pages}->stats->{open} }, "$way, $script: the pools are empty";
    $_->reset for $backend, $nginx->{pages};
    my $begun = time;
    my $load = Keepalive::Load->start($nginx->{port}, clients => $clients, requests => $each,
        request => sub { "/pool/$way", headers => { 'X-Script' => "$script&$delay" } });
    $load->finish;
    my %seen;
    $seen{/^(\S+)/ ? $1 : '?'}++ for $load->lines;
    is_deeply \%seen, { $status => $total }, "$way, $script: all $total requests are answered";
    ok wait_for { $backend->stats->{requests} == $total }, "$way, $script: each was asked for once";
    my $accepted = $backend->stats->{accepted};
    cmp_ok $accepted, '<=', 1.1 * $clients, "$way, $script: over $accepted connections";
    diag sprintf '%s, %s: %d connections, %.1f s', $way, $script, $accepted, time - $begun;
}

# A queue makes them exactly as many as there may be, also when each answer takes its time to be drained.
for my $script ('body=OK&delay=2', 'framing=chunked&body=OK&delay=1', 'len=3000&drip=1&pieces=2', 'status=401&body=login&delay=1') {
    $backend->drop;
    ok wait_for { !$backend->stats->{open} }, "queue, $script: the pool is empty";
    $backend->reset;
    my @requests = map { $nginx->begin('queue', 'auth', $script, timeout => 60) } 1 .. 500;
    is statuses(@requests), ($script =~ /status=(\d+)/ ? $1 : 200) . ' x 500', "queue, $script: five hundred at once";
    ok wait_for { !$backend->stats->{busy} }, "queue, $script: the server has nothing more to do";
    my $stats = $backend->stats;
    is "$stats->{requests} over $stats->{accepted}, $stats->{max_open} at a time", '500 over 4, 4 at a time', "queue, $script: over four connections";
}

$_->drop for $backend, $nginx->{pages};
ok wait_for { $process->descriptors < 20 }, 'no descriptor is left' or diag $process->descriptors;
$nginx->stop;
done_testing;
