# keepalive_hint learn: over a link with a delay, a server closes idle connections and does not say when. Once it has closed ten, no
# request meets a stale connection, and hardly more connections are opened than by somebody who knows its limit.
#
# faults: F1.3 "$trip: none met a stale connection"
# faults: F1.4 "$trip: none had arrived when the server closed"
# faults: F11.6 "$trip: hardly more connections than needed"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use List::Util qw(max sum0);
use Test::More;
use Time::HiRes qw(sleep time);

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Lessons;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;

my $far = $Keepalive::Link::FAR;
# In seconds: when the server closes, and how much earlier or later than that requests come.
my ($limit, $around) = (1, 0.1);
my ($clients, $wanted) = (50, 500);
my %posted = (method => 'POST', body => 'x' x 100);
# Each has a server of its own, and for each client a pool of its own, so that each connection is used again exactly when its
# client says. The first two learn; the others are there to see that what they do not meet is met.
my @kinds = (
    { name => 'GET', mode => 'learn', clients => $clients, options => {} },
    { name => 'POST', mode => 'learn', clients => $clients, options => \%posted },
    { name => 'on', mode => 'on', clients => 10, options => {} },
    { name => 'off', mode => 'off', clients => 10, options => \%posted },
);

sub start_nginx {
    my ($port, $log, $backend) = @_;
    my ($upstreams, $locations) = ('', '');
    for my $index (0 .. $#kinds) {
        for my $client (1 .. $kinds[$index]{clients}) {
            my $name = "$kinds[$index]{name}$client";
            $upstreams .= "upstream $name { server @{[ $backend->address($index) ]}; keepalive 1; keepalive_hint $kinds[$index]{mode}; }\n";
            $locations .= "location /$name { proxy_pass http://$name/; }\n";
        }
    }
    return Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
$upstreams
$times_format
server {
    listen 127.0.0.1:$port;
    access_log $log times;
    $locations
}
END
}

# Starts the clients of a kind, at different moments.
sub start_load {
    my ($port, $kind) = @_;
    return Keepalive::Load->start($port, clients => $kind->{clients}, request => sub {
        my ($number, $client) = @_;
        srand if $number == 1;
        sleep $number > 1 ? $limit - $around + rand 2 * $around : rand $limit;
        return ("/$kind->{name}$client?idle=@{[ $limit * 1000 ]}&id=$kind->{name}.$client.$number", %{ $kind->{options} });
    });
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[@sorted / 2] }

for my $delay (0.5, 5, 25) {
    my $trip = 2 * $delay . ' ms';
    my $link = Keepalive::Link->start(delay => $delay, watched => 1) or plan skip_all => 'TUN devices are not permitted';
    my $backend = Keepalive::Backend->start(host => $far, within => [$link->within], listen => [("$far:0") x @kinds]);
    my ($port, $log) = (free_port(), work_dir() . "/requests$delay.log");
    my $nginx = start_nginx($port, $log, $backend);
    # Only a long round trip is met by a few clients.
    my @running = grep { $kinds[$_]{mode} eq 'learn' || $delay > 5 } 0 .. $#kinds;
    my @loads = map { start_load($port, $kinds[$_]) } @running;
    my $begun = time;

    # When the server had closed ten connections at each of the two addresses, and nginx knew.
    my @lesson;
    wait_for {
        for my $index (0, 1) {
            $lesson[$index] //= time + 0.05 + $delay / 500 if $backend->stats($index)->{expired} >= 10;
        }
        sleep 0.04;
        defined $lesson[0] && defined $lesson[1];
    } or diag "$trip: the server has closed too few connections";
    $_ //= time for @lesson[0, 1];
    # By then no request is left that had already waited for its moment.
    my $calm = max(@lesson) + $limit + 2 * $around;
    sleep max(0, $calm - time);
    my ($unread, $lost, @answers) = ($link->closed_unread, $link->lost, map { $_->answers } @loads[0, 1]);
    my $deadline = time + 60;
    sleep 0.25 while time < $deadline && grep { $loads[$_]->answers < $answers[$_] + $wanted } 0, 1;
    $_->stop for @loads;
    $unread = $link->closed_unread - $unread;
    $lost = $link->lost - $lost;

    my @all = requests_in($log, $nginx);
    my @hold_ups = grep { $_->[0] > $begun } $link->hold_ups;
    # On a busy machine, ages that are measured are wrong by as much, or by twice as much.
    my $busy = sum0(map { $_->[1] - $_->[0] } @hold_ups) / (time - $begun);
    my $longest = max(0, map { $_->[1] - $_->[0] } @hold_ups);
    my $error = $busy > 0.05 ? $longest : 0;
    my $round_trip = max(2 * $delay / 1000, median(map { $_->{new} && $_->{connect} =~ /^[\d.]+$/ ? $_->{connect} : () } @all));
    my ($opened, $unavoidable, $excused) = (0, 0, 0);
    for my $index (0, 1) {
        my $name = $kinds[$index]{name};
        my @after = grep { $_->{name} eq $name && ($_->{before} // 0) > $lesson[$index] } @all;
        cmp_ok scalar @after, '>=', $wanted, "$trip: enough of $name";
        my @excused = grep { $_->{stale} && was_held_up($_, $round_trip, @hold_ups) } @after;
        $excused += @excused;
        my @stale = grep { $_->{stale} && !was_held_up($_, $round_trip, @hold_ups) } @after;
        is scalar @stale, 0, "$trip: none met a stale connection, of $name";
        diag sprintf '%s after %.3f s: %s', @$_{qw(id idle stale)} for @stale;
        my @failed = grep { $_->{status} != 200 && !was_held_up($_, $round_trip, @hold_ups) } @after;
        is join(' ', map { "$_->{id}: $_->{status}" } @failed), '', "$trip: none of $name is lost";
        is $backend->stats($index)->{ids_again}, 0, "$trip: none of $name came twice";
        $opened += grep { $_->{new} } @after;
        # Whoever knows the limit and the round trip uses a connection as long as the request arrives in time.
        $unavoidable += grep { $_->{idle} + $round_trip + $error >= $limit } @after;
        my $address = $backend->address($index);
        my @told = limits_told($nginx, $address, 'idle');
        ok @told && @told <= 1 + 50 * $busy && abs($told[-1] - $limit) <= 0.05 * $limit + 2 * $longest,
            "$trip: the log tells the limit, of $name" or diag "@told";
    }
    cmp_ok $unread, '<=', $excused + $lost, "$trip: none had arrived when the server closed";
    cmp_ok $opened, '<=', (1.1 + 2 * $busy) * $unavoidable, "$trip: hardly more connections than needed";
    diag sprintf '%s: a connection took %.0f ms; %d connections, %d were unavoidable; excused: %d, %d packets lost, held up for %.1f %% of the time',
        $trip, 1000 * $round_trip, $opened, $unavoidable, $excused, $lost, 100 * $busy;
    for my $kind (map { $kinds[$_] } grep { $_ > 1 } @running) {
        my $met = grep { $_->{name} eq $kind->{name} && $_->{stale} } @all;
        cmp_ok $met, '>', 0, "$trip: keepalive_hint $kind->{mode}: some met a stale connection";
    }
    $nginx->stop;
}
done_testing;
