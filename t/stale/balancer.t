# A stale connection is not a failed server: the balancer is not told, unless keepalive_stale_fails is on. Failures on a new
# connection count as always.
#
# faults: F4.2 "both servers go on taking turns" "no server is taken for failed"
# faults: F17.3 "a single server: by one more connection"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my $port = free_port();
my $servers = join ' ', map { 'server ' . $backend->address($_) . ';' } 0, 1;
my %upstreams = (
    plain  => '',
    told   => 'keepalive_stale_fails on;',
    off    => 'keepalive_stale_retry off;',
    least  => 'least_conn;',
    hashed => 'hash $arg_key;',
    zone   => 'zone both 128k;',
    single => 'keepalive_requests 1000;',
    tries  => '',
    map { ($_ => '') } qw(part hang stop),
);
my $blocks = '';
for my $name (sort keys %upstreams) {
    my $both = $name eq 'single' ? 'server ' . $backend->address . ';' : $servers;
    $blocks .= "upstream $name { $upstreams{$name} $both keepalive 8; }\n";
}
my $locations = join '', map { "location /$_ { proxy_pass http://$_/; }\n" } sort keys %upstreams;
my $socket = Keepalive::Backend->start(listen => ['unix:' . work_dir() . '/refusing.sock']);
$blocks .= "upstream refusing { server @{[ $socket->address ]}; server @{[ $backend->address(1) ]}; keepalive 8; keepalive_check off; }\n";
$blocks .= "upstream revived { server @{[ $backend->address(0) ]} max_fails=1 fail_timeout=1s; server @{[ $backend->address(1) ]} backup; keepalive 8; }\n";
$locations .= "location /refusing { proxy_pass http://refusing/; }\nlocation /revived { proxy_pass http://revived/; }\n";
$locations =~ s{(location /tries \{)}{$1 proxy_next_upstream_tries 1;};
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 400ms;
$blocks
log_format tries '\$upstream_addr';
server {
    listen 127.0.0.1:$port;
    access_log @{[ work_dir() ]}/tries.log tries;
    $locations
}
END

sub afresh {
    $backend->drop;
    wait_for { !grep { $backend->stats($_)->{open} } 0, 1 };
    $backend->reset;
}

# The statuses of this many requests to a location, in short.
sub outcome {
    my ($number, $path, %options) = @_;
    my %seen;
    $seen{ get($port, $path, %options)->{status} }++ for 1 .. $number;
    return join ' ', map { "$seen{$_} x $_" } sort keys %seen;
}

# How many of this many requests each server gets.
sub shares {
    my ($number, $path) = @_;
    my @before = map { $backend->stats($_)->{requests} } 0, 1;
    my $outcome = outcome($number, $path);
    return join ' and ', $outcome, map { $backend->stats($_)->{requests} - $before[$_] } 0, 1;
}

# Both servers close a connection when its second request comes: each such request has another connection, to the same
# server, and they go on taking turns.
my $stale = 'fault=close&at=start&from=2';
for my $name (qw(plain least zone)) {
    afresh();
    get($port, "/$name") for 1, 2;
    is outcome(2, "/$name?$stale"), '2 x 200', "$name: requests on stale connections to both servers are answered";
    is shares(48, "/$name"), '48 x 200 and 24 and 24', "$name: both servers go on taking turns";
}
open my $in, '<', work_dir() . '/tries.log' or die $!;
my @tries = grep { /,/ } <$in>;
is scalar @tries, 6, 'six requests were sent twice';
is scalar(grep { !/^(\S+), \1$/ } @tries), 0, 'each to one server only';

# By a hash, a request has its server, stale connection or not.
afresh();
get($port, '/hashed?key=a') for 1, 2;
my $server = $backend->stats(0)->{requests} ? 0 : 1;
is outcome(1, "/hashed?key=a&$stale"), '1 x 200', 'hash: a request on a stale connection is answered';
is $backend->stats(1 - $server)->{requests}, 0, 'hash: and has gone to no other server';

# Told, nginx takes both for failed.
afresh();
get($port, '/told') for 1, 2;
outcome(2, "/told?$stale");
like outcome(8, '/told'), qr/x 502/, 'keepalive_stale_fails on: no server is left';

# Without retries by the module, the balancer is not told of stale connections either.
afresh();
get($port, '/off') for 1, 2;
is outcome(1, "/off?$stale", method => 'POST', body => 'x'), '1 x 502', 'keepalive_stale_retry off: a POST fails';
is shares(20, '/off'), '20 x 200 and 10 and 10', 'keepalive_stale_retry off: no server is taken for failed';

# A new connection that fails is a failure of its server.
afresh();
is outcome(1, '/zone?fault=close&at=start&only=0'), '1 x 200', 'a server closes a new connection, the other one answers' for 1, 2;
is shares(10, '/zone'), '10 x 200 and 0 and 10', 'it is taken for failed';

# So it is if it answers in part, or has taken the request and hangs, on whatever connection.
my %fault = (part => 'fault=close&at=header', hang => 'fault=hang&at=start', stop => 'fault=hang&at=header');
for my $name (sort keys %fault) {
    afresh();
    get($port, "/$name") for 1, 2;
    is outcome(2, "/$name?$fault{$name}&from=2&only=1"), '2 x 200', "$fault{$name}, connection reused: the other server answers";
    is shares(10, "/$name"), '10 x 200 and 10 and 0', "$fault{$name}: the server is taken for failed";
}

# A server that has failed is tried anew after its fail_timeout. That the try met a stale connection is no success.
afresh();
get($port, '/revived');
my @held = map { begin($port, '/revived?delay=200') } 1, 2;
$_->finish for @held;
is $backend->stats(0)->{open}, 2, 'a server and two idle connections to it';
is outcome(1, '/revived?fault=close&at=header&from=2&only=0'), '1 x 200', 'it fails on one of them';
is shares(3, '/revived'), '3 x 200 and 0 and 3', 'and is taken for failed';
select undef, undef, undef, 2.2;
is outcome(1, '/revived?fault=close&at=start&from=2&only=0', method => 'POST', body => 'x'), '1 x 502', 'the try meets a stale connection';
my $probe = begin($port, '/revived?delay=300&only=0');
wait_for { $backend->stats(0)->{busy} };
is shares(3, '/revived'), '3 x 200 and 0 and 3', 'it is tried by one request, and not used by all';
is $probe->finish->{status}, 200, 'which finds it well';
is shares(3, '/revived'), '3 x 200 and 3 and 0', 'and from now on it is used';

# The server is gone altogether. With one try, a request that stock nginx would send to the next server still gets there.
afresh();
get($port, '/tries') for 1, 2;
$backend->refuse(1000, 0);
is outcome(2, '/tries?fault=close&at=start&from=2&only=0'), '2 x 200', 'one try, a stale connection, then refused: the other server answers';
ok wait_for { get($port, '/tries')->{status} == 200 }, 'until it is back';
select undef, undef, undef, 1;

# A POST that has not arrived: its server refuses the new connection at once, and it goes to the next one. The worker is stopped so
# that it reads the request first, and has a closed connection at hand.
afresh();
get($port, '/refusing') for 1, 2;
my $client = begin($port, '/nowhere', keep_alive => 1);
$client->receive;
my ($worker) = $nginx->workers;
kill STOP => $worker;
my @posts = map { begin($port, '/refusing', method => 'POST', body => 'x', over => $_) } $client->{socket};
$socket->refuse(1000);
$socket->drop;
wait_for { !$socket->stats->{open} };
select undef, undef, undef, 0.05;
my $before = $backend->stats(1)->{requests};
kill CONT => $worker;
is $posts[0]->finish->{status}, 200, 'a POST on a stale connection to a server that is gone: another server answers';
is $backend->stats(1)->{requests}, $before + 1, 'once';

# The only server of an upstream.
afresh();
get($port, '/single');
is outcome(1, "/single?$stale"), '1 x 200', 'a single server';
is $backend->stats(0)->{accepted}, 2, 'a single server: by one more connection';

unlike $nginx->error_log, qr/\[alert\]/, 'no alert';
$nginx->stop;
done_testing;
