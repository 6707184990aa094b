# Connections that a gateway on the way has forgotten: nothing comes back, not even an error. Only a timeout shows it, and one is
# enough: the other connections are not used any more, and the servers are not marked as failed. A server that accepts a request
# and does not answer is treated differently.
#
# faults: F5.1 "all others are answered" "both lost a request by a connection that was forgotten, and take turns"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;
use Time::HiRes qw(time);

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;
my $link = Keepalive::Link->start(delay => 1) or plan skip_all => 'TUN devices are not permitted';

my $far = $Keepalive::Link::FAR;
my $backend = Keepalive::Backend->start(host => $far, within => [$link->within], listen => ["$far:0", "$far:0", "$far:0"]);
my $port = free_port();
my @servers = map { 'server ' . $backend->address($_) . ';' } 0 .. 2;
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 600ms;
upstream one { $servers[2] keepalive 16; }
upstream two { $servers[0] $servers[1] keepalive 16; }
upstream told { $servers[0] $servers[1] keepalive 16; keepalive_stale_fails on; }
server {
    listen 127.0.0.1:$port;
    location /one { proxy_pass http://one/; }
    location /other { proxy_pass http://one/other; proxy_bind $Keepalive::Link::NEAR; }
    location /two { proxy_pass http://two/; }
    location /told { proxy_pass http://told/; }
}
END

sub statuses { join ' ', map { $_->finish->{status} } @_ }

# Ten idle connections, and two of another identity, to one server.
is statuses(map { begin($port, $_ % 5 ? '/one?delay=100' : '/other?delay=100') } 1 .. 12), join(' ', (200) x 12), 'twelve requests at once';
is $backend->stats(2)->{open}, 12, 'twelve connections are idle';
$link->forget;
my $begun = time;
is get($port, '/one', method => 'POST', body => 'x')->{status}, 504, 'the first request is lost';
cmp_ok time - $begun, '>', 0.5, 'after its timeout';
$begun = time;
is statuses(map { get_later($_) } 1 .. 12), join(' ', (200) x 12), 'all others are answered';
cmp_ok time - $begun, '<', 0.5, 'without waiting for anything';

sub get_later {
    my ($number) = @_;
    return begin($port, $number % 5 ? '/one' : '/other', method => 'POST', body => 'x');
}

# Of two servers none is taken for failed.
sub shares {
    my ($location) = @_;
    my %shares = (0 => 0, 1 => 0);
    for (1 .. 10) {
        my $before = $backend->stats(0)->{requests};
        get($port, $location)->{status} == 200 or return 'a request fails';
        $shares{ $backend->stats(0)->{requests} == $before ? 1 : 0 }++;
    }
    return "$shares{0} to one, $shares{1} to the other";
}
is shares('/two'), '5 to one, 5 to the other', 'two servers take turns';
$link->forget;
get($port, '/two', method => 'POST', body => 'x') for 1, 2;
is shares('/two'), '5 to one, 5 to the other', 'both lost a request by a connection that was forgotten, and take turns';
# The server has taken the request, and hangs. That is its own fault, on whatever connection.
my @statuses = map { get($port, '/two?fault=hang&at=start&from=2&only=0', method => 'POST', body => 'x')->{status} } 1, 2;
is join(' ', sort @statuses), '200 504', 'one of two servers hangs';
is shares('/two'), '0 to one, 10 to the other', 'it is taken for failed';

is shares('/told'), '5 to one, 5 to the other', 'two servers take turns, keepalive_stale_fails on';
$link->forget;
is get($port, '/told', method => 'POST', body => 'x')->{status}, 504, 'keepalive_stale_fails on: a request is lost' for 1, 2;
is get($port, '/told')->{status}, 502, 'keepalive_stale_fails on: both servers are taken for failed';

$nginx->stop;
done_testing;
