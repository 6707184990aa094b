# Reloads under load: no request fails, and few connections are opened, because the new workers get those of the old ones.
#
# faults: F14.1 "none of $answers requests failed"

use strict;
use warnings;

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

# Fifty clients. Each: the number of workers, the pool, and how many connections there may be in all: fifty would do if nobody
# reloaded. During a tenth of a second after a reload, workers of both configurations accept clients.
for my $case ([1, 'keepalive 64;', 110], [2, 'keepalive 64;', 160], [1, 'keepalive 64; keepalive_handover off;', undef], [1, 'keepalive 8;', undef]) {
    my ($workers, $pool, $most) = @$case;
    my $title = "$workers workers, $pool";
    $backend->reset;
    my $nginx = handover_nginx($port, { u => 'server ' . $backend->address . "; $pool" }, workers => $workers)->start;
    my $load = Keepalive::Load->start($port, clients => 50, request => sub { '/u?delay=5' });
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
    cmp_ok $accepted, '<=', $most, "$title: $accepted connections" if $most;
    diag "$title: $accepted connections for $answers requests";
    my $status = Keepalive::Status->new($port);
    $status->consistent("$title: the counters agree");
    my $told = $status->json->{upstreams}{u};
    is $told->{opened}, $accepted, "$title: they count what the server has accepted";
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

done_testing;
