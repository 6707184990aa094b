# Reloads under load: no request fails, and few connections are opened, because the new workers get those of the old ones.
#
# faults: F14.1 "none of $answers requests failed"

use strict;
use warnings;

use List::Util qw(max);
use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Handover;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();

# Fifty clients, and five reloads. Returns how many connections were opened. The server takes its time, so that it is not the
# processors that limit the load: workers that wait for a processor cannot answer each other soon enough.
sub opened {
    my ($title, $workers, $pool) = @_;
    $backend->reset;
    my $nginx = handover_nginx($port, { u => 'server ' . $backend->address . "; $pool" }, workers => $workers)->start;
    my $load = Keepalive::Load->start($port, clients => 50, request => sub { '/u?delay=40' });
    ok $load->wait_for_more(300), "$title: the load has begun";
    my @old;
    for my $round (1 .. 5) {
        push @old, $nginx->reload;
        ok $load->wait_for_more(300), "$title: it goes on after reload $round";
    }
    my ($answers, @failures) = $load->stop;
    is "@failures", '', "$title: none of $answers requests failed";
    ok is_gone(@old), "$title: the old workers are gone";
    my $accepted = $backend->stats->{accepted};
    diag "$title: $accepted connections for $answers requests";
    my $status = Keepalive::Status->new($port);
    $status->consistent("$title: the counters agree");
    my $told = $status->json->{upstreams}{u};
    is $told->{opened}, $accepted, "$title: they count what the server has accepted";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
    return $accepted;
}

# The number of workers, and how many connections there may be in all: fifty would do if nobody reloaded. During a tenth of a
# second after a reload, workers of both configurations accept clients. A worker that another program keeps from running answers
# too late, so the best of three attempts counts, and half of what is opened without the handover will do; with sanitizers all
# are too slow.
my $off = opened('off', 1, 'keepalive 64; keepalive_handover off;');
for my $case ([1, 110], [2, 160]) {
    my ($workers, $most) = ($case->[0], max($case->[1], 0.5 * $off));
    my $title = "workers: $workers";
    my $opened;
    for (1 .. 3) {
        $opened = opened($title, $workers, 'keepalive 64;');
        last if $opened <= $most || $ENV{TEST_NGINX_SANITIZED};
    }
    cmp_ok $opened, '<=', $most, "$title: few are opened" unless $ENV{TEST_NGINX_SANITIZED};
}
opened('a small pool', 1, 'keepalive 8;');

done_testing;
