# Every protocol module that uses upstream pools: connections are used again where the protocol allows it.
#
# faults: F7.5 "fastcgi, many records"
# about: protocols

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $port = free_port();

# One nginx with an upstream of this server and this location, for one protocol.
sub nginx_for {
    my ($server, $location, $more) = @_;
    return Keepalive::Nginx->new(http => <<"END");
upstream backend { server $server; keepalive 4; }
@{[ $more // '' ]}
server { listen 127.0.0.1:$port; location / { $location } }
END
}

# Sends some requests; the expectation is the numbers of their connections.
sub expect_connections {
    my ($title, $expected, @requests) = @_;
    my @answers = map { get($port, ref $_ ? @$_ : $_) } @requests;
    is join(' ', map { $_->{body} =~ /connection (\d+) request/ ? $1 : "status $_->{status}" } @answers), $expected, $title;
}

my @requests = ('/', ['/', method => 'POST', body => 'x' x 100000], '/?delay=20', '/?x=y');

# HTTP/1.0 to the upstream: there is no keepalive.
{
    my $backend = Keepalive::Backend->start;
    my $nginx = nginx_for($backend->address, 'proxy_pass http://backend; proxy_http_version 1.0;')->start;
    expect_connections('proxy, HTTP/1.0', '1 2 3 4', @requests);
    $nginx->stop;

    $backend->reset;
    $nginx = nginx_for($backend->address,
        "proxy_pass http://backend; $proxy_keepalive")->start;
    expect_connections('proxy, HTTP/1.1', '1 1 1 1', @requests);
    $nginx->stop;
}

# FastCGI: only with fastcgi_keep_conn.
{
    my $backend = Keepalive::Backend->start(protocol => 'fastcgi');
    my $fastcgi = 'fastcgi_pass backend; fastcgi_param REQUEST_METHOD $request_method;'
        . ' fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_URI $request_uri;';
    my $nginx = nginx_for($backend->address, "$fastcgi fastcgi_keep_conn on;")->start;
    expect_connections('fastcgi', '1 1 1 1', @requests);
    expect_connections('fastcgi, an error status', '1 1', '/?status=404', '/');
    is length get($port, '/?len=300000')->{body}, 300000, 'fastcgi, many records';
    expect_connections('fastcgi, after that', '1', '/');
    is get($port, '/?len=300000&fault=close&at=body')->{complete}, 0, 'fastcgi, broken off';
    expect_connections('fastcgi, a new connection', '2', '/');
    is get($port, '/', method => 'HEAD')->{status}, 200, 'fastcgi, HEAD';
    $nginx->stop;

    $backend->reset;
    $nginx = nginx_for($backend->address, $fastcgi)->start;
    expect_connections('fastcgi without fastcgi_keep_conn', '1 2 3 4', @requests);
    $nginx->stop;
}

# uwsgi and SCGI end an answer by closing: `keepalive` must do no harm.
for my $protocol (qw(uwsgi scgi)) {
    my $backend = Keepalive::Backend->start(protocol => $protocol);
    my $nginx = nginx_for($backend->address, "${protocol}_pass backend; ${protocol}_param REQUEST_METHOD \$request_method;"
        . " ${protocol}_param REQUEST_URI \$request_uri; ${protocol}_param CONTENT_LENGTH \$content_length;")->start;
    expect_connections($protocol, '1 2 3 4', @requests);
    $nginx->stop;
}

# memcached
{
    my $backend = Keepalive::Backend->start(protocol => 'memcached');
    my $nginx = nginx_for($backend->address, 'set $memcached_key $request_uri; memcached_pass backend;')->start;
    expect_connections('memcached', '1 1 1', '/', '/a', '/b');
    is get($port, '/?status=404')->{status}, 404, 'memcached, no such key';
    expect_connections('memcached, after that', '1 1', '/', '/a');
    is length get($port, '/?len=100000')->{body}, 100000, 'memcached, a large value';
    expect_connections('memcached, after that', '1', '/');
    $nginx->stop;
}

# For the HTTP/2 protocols the server is an nginx; its variables give the number of the request on its connection.
my $h2_port = free_port();
my $h2_listen = version_at_least('1.25.1') ? "listen 127.0.0.1:$h2_port; http2 on;" : "listen 127.0.0.1:$h2_port http2;";
my $h2_server = <<"END";
server {
    $h2_listen
    location / { return 200 "connection 1 request \$connection_requests\\n"; }
    location /empty { return 204; }
}
END

sub expect_requests {
    my ($title, $expected, @requests) = @_;
    my @answers = map { get($port, ref $_ ? @$_ : $_) } @requests;
    is join(' ', map { $_->{body} =~ /request (\d+)/ ? $1 : $_->{status} } @answers), $expected, $title;
}

SKIP: {
    skip 'no gRPC without HTTP/2', 1 unless has_feature('with-http_v2_module');
    my $nginx = nginx_for("127.0.0.1:$h2_port", 'grpc_pass grpc://backend;', $h2_server)->start;
    expect_requests('grpc', '1 2 3 4', '/', ['/', method => 'POST', body => 'x' x 1000], '/', '/');
    $nginx->stop;
}

SKIP: {
    skip 'proxying by HTTP/2 needs 1.29.4', 1 unless version_at_least('1.29.4') && has_feature('with-http_v2_module');
    my $nginx = nginx_for("127.0.0.1:$h2_port", 'proxy_pass http://backend; proxy_http_version 2;', $h2_server);
    my ($accepted, $said) = $nginx->test;
    skip 'this nginx does not proxy by HTTP/2', 1 if !$accepted && $said =~ /proxy_http_version/;
    $nginx->start;
    expect_requests('proxy, HTTP/2', '1 2 3 4', '/', ['/', method => 'POST', body => 'x' x 1000], '/', '/');
    $nginx->stop;
}

done_testing;
