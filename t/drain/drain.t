# `keepalive_drain`: when nginx reads only the header of an answer, the module reads the rest, and the connection is used again.
# For every framing, everything that leaves answers unread, and every kind of socket.
#
# faults: F7.6 "byte by byte"
# faults: F20.1 "many at once: each with its own"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $has_ipv6 = eval { require IO::Socket::IP; IO::Socket::IP->new(LocalHost => '::1', Listen => 1) };
my $socket = work_dir() . '/socket';
my $backend = Keepalive::Backend->start(listen => ['127.0.0.1:0', '127.0.0.1:0', "unix:$socket", $has_ipv6 ? '[::1]:0' : ()]);
my ($server, $spare, $unix, $ipv6) = map { 'server ' . $backend->address($_) . ';' } 0 .. $#{ $backend->{addresses} };

# TLS ends at an nginx, which passes all on as it comes.
my ($secure, $http, %upstreams) = (free_port(), '');
if (has_feature('with-http_ssl_module')) {
    my ($certificate, $key) = self_signed('localhost');
    $http = <<"END";
upstream plain { server @{[ $backend->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / {
        proxy_buffering off;
        proxy_hide_header X-Connection;
        proxy_hide_header X-Request;
        add_header X-Connection \$connection always;
        add_header X-Request \$connection_requests always;
        proxy_pass http://plain;
    }
}
END
    $upstreams{tls} = "server 127.0.0.1:$secure; keepalive 4;";
}
my $nginx = Keepalive::Unread->new($backend, {
    default => "$server keepalive 4;",
    bytes   => "$server keepalive 4; keepalive_drain 1000;",
    # The next request waits until all is read.
    large   => $server =~ s/;/ max_conns=1;/r . ' keepalive 4; keepalive_drain 16m timeout=10s;',
    off     => "$server keepalive 4; keepalive_drain 0;",
    first   => "keepalive_drain 1k; $server keepalive 4;",
    zone    => "zone z 64k; $server keepalive 4;",
    single  => "$server keepalive 4 per_server; keepalive_drain 64k;",
    two     => $server =~ s/;/ max_fails=0;/r . $spare =~ s/;/ backup;/r . ' keepalive 4;',
    unix    => "$unix keepalive 4;",
    $ipv6 ? (ipv6 => "$ipv6 keepalive 4;") : (),
    %upstreams,
}, http => "$http proxy_cache_path @{[ work_dir() ]}/cache keys_zone=answers:1m;", locations => <<'END');
location /default/head {
    auth_request /default/head/ask;
    proxy_pass http://pages;
}
location /default/head/ask {
    internal;
    proxy_method HEAD;
    proxy_pass http://default/?$http_x_script;
}
location /default/cached { auth_request /default/cached/ask; proxy_pass http://pages; }
location /default/cached/ask {
    proxy_cache answers;
    proxy_cache_key $request_id;
    proxy_cache_valid any 1s;
    proxy_pass http://default/?$http_x_script;
}
location /default/limited { auth_request /default/limited/ask; proxy_pass http://pages; }
location /default/limited/ask { proxy_limit_rate 1000; proxy_pass http://default/?$http_x_script; }
location /default/uncached { mirror /default/unbuffered/ask; proxy_pass http://pages; }
location /default/unbuffered/ask { internal; proxy_buffering off; proxy_pass http://default/?$http_x_script; }
location /token { proxy_pass http://default; }
END

# Every framing, as auth_request gets it.
my @chunks = ("0\r\n\r\n", "2\r\nOK\r\n0\r\n\r\n", join('', map { sprintf "%x\r\n%s\r\n", $_, 'x' x $_ } 1 .. 40) . "0\r\n\r\n",
    "002\r\nOK\r\n000\r\n\r\n", "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "2;a\r\nOK\r\n1;b=c;d=\"e\"\r\n!\r\n0;f\r\n\r\n",
    "2\r\nOK\r\n0\r\nX-Trailer: last\r\nanother:\r\n\r\n", "2\r\n\r\n\r\n1\r\n\n\r\n0\r\n\r\n");
for my $script (
    'len=0', 'len=1', 'body=OK', 'len=3000', 'len=4096', 'len=65536', 'len=65536&drip=2', 'body=0123456789&drip=3', 'fill=4096',
    'framing=chunked&len=0', 'framing=chunked&body=OK', 'framing=chunked&len=65536', 'framing=chunked&len=5000&drip=2',
    'framing=trailers&body=OK', 'framing=trailers&len=5000&drip=2', 'fill=4096&framing=chunked',
    'header=Connection:keep-alive&body=OK', 'header=Keep-Alive:timeout=5&body=OK', 'status=204', 'status=204&header=Content-Length:0',
    map { chunked($_) } @chunks,
) {
    $nginx->kept('default', 'auth', $script, $script =~ /status=(\d+)/ ? $1 =~ s/204/200/r : 200);
}
for my $bytes (@chunks) {
    # Nothing depends on where the bytes are cut.
    next if length $bytes > 200;
    $nginx->kept('default', 'auth', chunked($bytes) . '&drip=1&pieces=300', 200, 'byte by byte: ' . $bytes =~ s/\r\n/ /gr);
}
$nginx->kept('default', 'auth', "$_&status=401", 401) for 'body={"error":"login"}', 'framing=chunked&len=2000', 'len=2000&drip=2';
$nginx->kept('default', 'auth', "$_&status=403", 403) for 'body={"error":"no"}', 'framing=chunked&len=2000', 'len=2000&drip=2';
$nginx->kept('default', 'auth', "$_&status=404", 500) for 'body=none', 'framing=chunked&len=2000';
$nginx->kept('default', 'auth', "$_&status=500", 500) for 'body=broken', 'framing=chunked&len=2000';
$nginx->kept('default', 'head', $_, 200) for 'len=10', 'framing=chunked', 'len=1000000';

# The limit is a size that a body may have; more than any socket buffer takes is nothing special.
$nginx->kept('bytes', 'auth', $_, 200) for 'len=1000', 'framing=chunked&len=1000', 'len=1000&drip=2', 'framing=trailers&len=1000&drip=2';
$nginx->closed('bytes', 'auth', $_, 200) for 'len=1001', 'framing=chunked&len=1001', 'framing=chunked&len=1001&drip=2';
$nginx->kept('first', 'auth', 'len=1024', 200);
$nginx->closed('first', 'auth', 'len=1025', 200);
$nginx->closed('default', 'auth', $_, 200) for 'len=65537', 'framing=chunked&len=65538';
$nginx->kept('large', 'auth', $_, 200) for 'len=12000000', 'framing=chunked&len=12000000', 'len=16777216';
$nginx->closed('large', 'auth', 'len=16777216&framing=chunked&fault=endless', 200);

# Off means as the stock module does.
$nginx->closed('off', 'auth', $_, 200) for 'body=OK', 'framing=chunked&body=OK', 'framing=chunked&len=0';
$nginx->kept('off', 'auth', $_, 200) for 'status=204', 'len=0';

# All that leaves answers unread.
for my $script ('body=OK', 'len=10&drip=2', 'len=60000', 'framing=chunked&body=OK', 'framing=chunked&len=60000', 'framing=trailers&len=1000&drip=2') {
    $nginx->kept('default', 'mirror', $script, 200);
    $nginx->kept('default', 'uncached', $script, 200);
    $nginx->kept('default', 'accel', $script, 200);
    $nginx->kept('default', 'intercept', "$script&status=$_", 200) for 401, 404, 500;
    $nginx->kept('two', 'next', "$script&status=$_&only=0", 200) for 403, 404;
}
$nginx->closed('two', 'next', "body=broken&status=$_&only=0", 200) for 429, 500, 503;
$nginx->kept('default', 'mirror', "$_", 200) for 'status=304', 'status=304&len=10', 'status=500&body=broken';
$nginx->kept('default', 'intercept', 'status=400&body=bad', 400, 'intercept: what is not intercepted is read');
$nginx->kept('default', 'next', 'status=404&len=1000', 404, 'next: what nobody else can answer is read');

for my $way (qw(cached limited)) {
    $nginx->kept('default', $way, $_, 200) for 'body=OK', 'framing=chunked&len=5000', 'len=1000&drip=2';
}

# A client's HEAD is one to the server, too: there is no body to wait for.
for my $way (qw(accel intercept auth mirror)) {
    my ($connection, $before) = $nginx->who('default');
    get($nginx->{port}, "/default/$way", method => 'HEAD', headers => { 'X-Script' => 'len=10&status=404' });
    $nginx->settle;
    is join(' ', $nginx->who('default')), join(' ', $connection, $before + 2), "$way: HEAD";
}

# Every kind of upstream and socket.
for my $name (grep { $_ ne 'tls' || %upstreams } qw(zone single unix tls), $ipv6 ? 'ipv6' : ()) {
    for my $script ('body=OK', 'len=60000', 'len=1000&drip=2', 'framing=chunked&body=OK', 'framing=chunked&len=60000',
        'framing=trailers&len=1000&drip=2', 'status=204') {
        $nginx->kept($name, $_, $script, 200) for qw(auth mirror);
        # Before 1.23.1 each location has TLS connections of its own.
        next if $script =~ /204/ || $name eq 'tls' && !version_at_least('1.23.1');
        $nginx->kept($name, 'accel', $script, 200);
    }
}

# Many at once: each client gets its own answer, never a byte of one that was drained.
my @scripts = ('body=drained', 'framing=chunked&body=drained', 'len=20000', 'len=500&drip=1', 'framing=trailers&len=500&drip=1',
    'len=100000', 'framing=chunked&len=100000', 'status=401&body=drained', 'framing=eof&len=100', 'body=drained&fault=extra');
my $load = Keepalive::Load->start($nginx->{port}, clients => 10, requests => 60, request => sub {
    my ($number, $client) = @_;
    return "/token?body=token-$client-$number&framing=" . ($number % 4 ? 'length' : 'chunked') if $number % 2;
    return '/default/' . (qw(auth mirror accel))[$number / 2 % 3], headers => { 'X-Script' => $scripts[rand @scripts] };
});
$load->finish;
my @lines = $load->lines;
my @tokens = grep { m{/token} } @lines;
is @tokens, 300, 'many at once: all tokens are answered';
is_deeply [grep { !m{^200 /token\?body=(\S+?)&\S+ \1$} } @tokens], [], 'many at once: each with its own';
is_deeply [grep { !m{/token|^(?:200|401) \S+ (?:connection \d+ request \d+ |<html>.*)$} } @lines], [], 'many at once: and so are all others';

$nginx->stop;
done_testing;
