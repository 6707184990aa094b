# worker_connections are used up: idle connections and those that are being drained are closed, in this pool and in others,
# before a request fails or a client is rejected.
#
# faults: F15.1 "as many at another upstream get their connections, as those of the first are given up"
# faults: F15.1 "requests that wait get theirs"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $server = $backend->address;

my $nginx = Keepalive::Nginx->new(connections => 64, http => <<"END")->start;
$proxy_keepalive
keepalive_timeout 0;
upstream a { server $server; keepalive 64; keepalive_timeout 1h; }
upstream b { server $server; keepalive 64; keepalive_timeout 1h; }
upstream c { server $server; keepalive 64; keepalive_timeout 1h; }
upstream limited { server $server max_conns=100; keepalive 64; keepalive_timeout 1h; }
upstream queued { server $server max_conns=2; keepalive 4; keepalive_timeout 1h; queue 60 timeout=5s; }
upstream unread { server $server; keepalive 64; keepalive_timeout 1h; keepalive_drain 1m timeout=1h; }
server {
    listen 127.0.0.1:$port;
    location /a { proxy_pass http://a; }
    location /b { proxy_pass http://b; }
    location /c { proxy_pass http://c; }
    location /limited { proxy_pass http://limited; }
    location /queued { proxy_pass http://queued; }
    location = /unread/ask { internal; proxy_pass http://unread/?\$args; }
    location = /unread { auth_subrequest /unread/ask?len=100&drip=100000&pieces=2; keepalive_status; }
    location = /status { keepalive_status; }
}
END
my $status = Keepalive::Status->new($port);

sub idle { my $upstreams = $status->json->{upstreams}; return map { $upstreams->{$_}{keepalive} } @_ }

sub at_once {
    my ($path, $number) = @_;
    return statuses(map { begin($port, "$path?delay=150&n=$_") } 1 .. $number);
}

get($port, '/status?format=json') for 1, 2;
my $descriptors = $nginx->descriptors;

# Just enough connections for all requests: none is closed.
is at_once('/a', 27), '200 x 27', 'more than seven eighths of all connections are in use' for 1 .. 10;
cmp_ok $backend->stats->{accepted}, '<=', 30, 'and used again';

for my $round (1 .. 3) {
    is at_once('/a', 25), '200 x 25', "round $round: 25 at a time";
    cmp_ok +(idle('a'))[0], '>=', 20, 'their connections are kept';
    # 25 are idle, and these need 50 of the other 37 or so.
    is at_once('/b', 25), '200 x 25', 'as many at another upstream get their connections, as those of the first are given up';
    is at_once('/c', 25), '200 x 25', 'and so do those at a third one';
    my ($first, $second, $third) = idle(qw(a b c));
    cmp_ok $first + $second + $third, '<', 60, "a few connections are left for clients ($first, $second and $third are idle)";
    cmp_ok $third, '>', 10, 'those that were used last are kept';
}
is at_once('/limited', 25), '200 x 25', 'so are those of a server that limits its connections';
is at_once('/a', 25), '200 x 25', 'and given up by it';
is at_once('/queued', 25), '200 x 25', 'requests that wait get theirs';
unlike $nginx->error_log, qr/worker_connections are not enough$/m, 'there were enough all the time';

# Connections with an unread response, which would stay for an hour.
$backend->drop;
ok wait_for { $backend->stats->{open} == 0 }, 'the pools are empty';
my $unread = 0;
for (1 .. 40) { get($port, '/unread')->{status} == 200 and $unread++ }
is $unread, 40, 'responses that are not read to their end';
cmp_ok $status->json->{upstreams}{unread}{draining}, '>', 30, 'are being drained';
is at_once('/a', 25), '200 x 25', 'and given up when connections are needed';
unlike $nginx->error_log, qr/worker_connections are not enough$/m, 'still there were enough';

$backend->drop;
$backend->stop;
ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left behind'
    or diag $nginx->descriptors . " instead of $descriptors";
$status->consistent('the numbers agree with each other');
$nginx->stop;
done_testing;
