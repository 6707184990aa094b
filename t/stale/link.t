# No request is lost to a server that closes idle connections, with or without notice: over a link with a delay, requests are
# sent around the moment at which the server closes.
#
# faults: F1.4 "is answered"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;
use Time::HiRes qw(sleep);

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;

my $far = $Keepalive::Link::FAR;
my ($clients, $rounds) = (50, 10);
my %posted = (method => 'POST', body => 'x' x 100);

# An nginx in front of a server with two addresses, one for each method. Each client has pools of its own, so that each
# connection is used again exactly when its client says.
sub begin_at {
    my ($delay) = @_;
    my $link = Keepalive::Link->start(delay => $delay) or return;
    my $backend = Keepalive::Backend->start(host => $far, within => [$link->within], listen => ["$far:0", "$far:0"]);
    my $port = free_port();
    my ($upstreams, $locations) = ('', '');
    for my $client (1 .. $clients) {
        for my $method (0, 1) {
            $upstreams .= "upstream u$client-$method { server @{[ $backend->address($method) ]}; keepalive 1; }\n";
            $locations .= "location /u$client-$method { proxy_pass http://u$client-$method/; }\n";
        }
    }
    my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
$upstreams
upstream shared { server @{[ $backend->address ]}; keepalive 32; }
server {
    listen 127.0.0.1:$port;
    keepalive_requests 10000;
    location /shared { proxy_pass http://shared/; }
    $locations
}
END
    return ($link, $backend, $nginx, $port);
}

sub stale_hits {
    my ($nginx) = @_;
    my $hits = () = $nginx->error_log =~ /prematurely closed|reset by peer|Broken pipe/g;
    return $hits;
}

# Nothing fails but what the server had received when it closed, and threw away: its kernel counts that. It is a matter of
# microseconds in the server, and from afar it looks as if it had acted on the request. Nor is anything proven by a FIN that
# was lost, as the kernel does with packets when the machine is overloaded. Both can show later than they happen, and with the
# next load: a FIN that was lost is sent again, and until then its connection looks as good as any. So this is about all loads
# of the link so far.
sub check_failures {
    my ($link, $nginx, $title, @failures) = @_;
    my $unread = $link->closed_unread - ($link->{seen} // 0);
    $link->{seen} += $unread;
    my $lost = $link->lost - ($link->{lost} // 0);
    $link->{lost} += $lost;
    diag "$title: the link has lost $lost packets" if $lost;
    $link->{failed} += @failures;
    cmp_ok $link->{failed}, '<=', $link->{seen} + $link->{lost}, "$title: none fails";
    for my $id (map { /id=([\d.]+)/ } @failures) {
        diag $_ for grep { /id=\Q$id\E / } split /\n/, $nginx->error_log;
    }
    diag "$title: the server closed $unread connections without reading a request that had come" if $unread;
}

# The server closes connections that are idle for a second; requests come 0.9 to 1.1 seconds after the last one.
for my $delay (0.5, 5, 25) {
    my $trip = 2 * $delay . ' ms';
    my ($link, $backend, $nginx, $port) = begin_at($delay) or plan skip_all => 'TUN devices are not permitted';
    my @loads = map {
        my $method = $_;
        Keepalive::Load->start($port, clients => $clients, requests => $rounds + 1, request => sub {
            my ($number, $client) = @_;
            srand if $number == 1;
            sleep 0.9 + rand 0.2 if $number > 1;
            return ("/u$client-$method?idle=1000&id=$client.$number", $method ? %posted : ());
        });
    } 0, 1;
    $_->finish for @loads;
    my $total = $clients * ($rounds + 1);
    for my $method (0, 1) {
        my $name = $method ? 'POST' : 'GET';
        my ($answers, @failures) = $loads[$method]->result;
        is $answers, $total, "$trip: each $name is answered";
        my $stats = $backend->stats($method);
        is $stats->{ids}, $total - @failures, "$trip: each $name has come";
        is $stats->{ids_again}, 0, "$trip: and none came twice" if $method;
    }
    check_failures($link, $nginx, $trip, map { my ($answers, @failures) = $_->result; @failures } @loads);
    my $hits = stale_hits($nginx);
    diag "$trip: $hits of " . 2 * $clients * $rounds . ' met a stale connection';
    cmp_ok $hits, '>', 0, "$trip: some of them met a stale connection" if $delay > 5;
    $nginx->stop;
}

# The server closes after each answer, each tenth or hundredth of a connection, without saying so.
my ($link, $backend, $nginx, $port) = begin_at(1);
for my $from (1, 10, 100) {
    my $requests = 5000;
    $backend->drop;
    wait_for { !$backend->stats->{open} };
    $backend->reset;
    my $before = stale_hits($nginx);
    my $load = Keepalive::Load->start($port, clients => 10, requests => $requests / 10, keep_alive => 1, request => sub {
        my ($number, $client) = @_;
        return ("/shared?fault=close&from=$from&id=$from.$client.$number", %posted);
    });
    $load->finish;
    my ($answers, @failures) = $load->result;
    is $answers, $requests, "closed after $from: each POST is answered";
    check_failures($link, $nginx, "closed after $from", @failures);
    my $stats = $backend->stats;
    is $stats->{ids} + @failures . " and $stats->{ids_again} again", "$requests and 0 again", "closed after $from: each came once";
    diag "closed after $from: $stats->{accepted} connections, " . (stale_hits($nginx) - $before) . ' were stale';
}
unlike $nginx->error_log, qr/no live upstreams/, 'no server was taken for failed';
$nginx->stop;
done_testing;
