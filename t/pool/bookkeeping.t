# State that a connection carries from one request to the next is reset: its counters and its log.
#
# faults: F10.5 "a warning names its request"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $access_log = work_dir() . '/access.log';
my $has_debug = has_feature('with-debug');

my $nginx = Keepalive::Nginx->new(log_level => $has_debug ? 'debug' : 'info', http => <<"END")->start;
log_format upstream '\$arg_n sent \$upstream_bytes_sent received \$upstream_bytes_received';
upstream backend { server @{[ $backend->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    access_log $access_log upstream;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END

# Each request is counted by itself, not together with those before it on the connection.
get($port, "/?n=$_&len=100&fill=500") for 1 .. 4;
get($port, '/?n=5&len=100&fill=500', method => 'POST', body => 'x' x 1000);
get($port, '/?n=6&len=100&fill=500');
ok wait_for { open my $in, '<', $access_log; my @lines = <$in>; @lines == 6 }, 'six requests are logged';
open my $in, '<', $access_log or die $!;
my %sent;
for (<$in>) {
    my ($number, $sent, $received) = /^(\d) sent (\d+) received (\d+)$/ or fail "unexpected line $_";
    $sent{$number} = $sent;
    is $received, 500, "request $number: \$upstream_bytes_received";
}
is $backend->stats->{accepted}, 1, 'all over one connection';
my $length = length "GET /?n=1&len=100&fill=500 HTTP/1.1\r\nHost: backend\r\n\r\n";
is join(' ', @sent{1 .. 4, 6}), join(' ', ($length) x 5), '$upstream_bytes_sent is that of the request alone';
my $post = length("POST /?n=5&len=100&fill=500 HTTP/1.1\r\nHost: backend\r\nContent-Length: 1000\r\n\r\n") + 1000;
is $sent{5}, $post, 'also for a POST';

# An error is logged for its own request, not for an earlier one on the same connection.
get($port, '/first');
get($port, '/second?fault=extra');
get($port, '/third');
get($port, '/fourth?fault=close&at=body&len=1000');
my ($warning) = $nginx->error_log =~ /(.*sent more data than specified.*)/;
like $warning, qr/request: "GET \/second/, 'a warning names its request';
my ($error) = $nginx->error_log =~ /(.*prematurely closed.*)/;
like $error, qr/request: "GET \/fourth/, 'an error names its request';

# The debug messages that people (and other test suites) look for; for an idle connection they name no client.
SKIP: {
    skip 'nginx was built without --with-debug', 1 unless $has_debug;
    like $nginx->error_log, qr/\*\d+ free keepalive peer: saving connection/, 'a connection is saved';
    like $nginx->error_log, qr/\*\d+ get keepalive peer: using connection/, 'a connection is used';
    get($port, '/');
    $backend->drop;
    ok wait_for { $nginx->error_log =~ /keepalive close handler/ }, 'a connection is closed';
    unlike $nginx->error_log, qr/\*\d+ keepalive close handler/, 'while idle it does not log as its last client';
}

$nginx->stop;
done_testing;
