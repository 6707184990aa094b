# keepalive_requests, keepalive_time and keepalive_timeout in http, server and location still belong to nginx's core: they apply
# to connections of clients, independently of the directives of the same name in an upstream.
#
# about: configuration

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my @ports = map { free_port() } 1 .. 3;

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
keepalive_requests 2;
keepalive_timeout 60s 20s;
keepalive_time 1h;
keepalive_disable none;
$proxy_keepalive
upstream backend {
    server @{[ $backend->address ]};
    keepalive 4;
    keepalive_requests 4;
    keepalive_time 1h;
    keepalive_timeout 60s;
}
server {
    listen 127.0.0.1:$ports[0];
    location / { proxy_pass http://backend; }
    location /close { keepalive_timeout 0; proxy_pass http://backend; }
}
server {
    listen 127.0.0.1:$ports[1];
    keepalive_requests 1000;
    keepalive_timeout 200ms;
    location / { proxy_pass http://backend; }
    location /once { keepalive_requests 1; proxy_pass http://backend; }
}
END

# The answers of three requests sent in one go on one client connection, until nginx closes it.
sub answers_until_close {
    my ($port, $path) = @_;
    my $request = begin($port, $path, keep_alive => 1);
    $request->more("GET $path HTTP/1.1\r\nHost: localhost\r\n\r\n" x 2);
    my $bytes = '';
    while (length(my $piece = $request->receive)) { $bytes .= $piece }
    return $bytes;
}

my $bytes = answers_until_close($ports[0], '/');
is scalar(() = $bytes =~ /HTTP\/1.1 200/g), 2, 'http: keepalive_requests 2 is for clients';
like $bytes, qr/Keep-Alive: timeout=20/, 'http: keepalive_timeout still takes two values';
is scalar(() = answers_until_close($ports[0], '/close') =~ /HTTP\/1.1 200/g), 1, 'location: keepalive_timeout 0';

my $begun = time;
is scalar(() = answers_until_close($ports[1], '/') =~ /HTTP\/1.1 200/g), 3, 'server: keepalive_requests 1000';
cmp_ok time - $begun, '<', 3, 'server: keepalive_timeout 200ms';
is scalar(() = answers_until_close($ports[1], '/once') =~ /HTTP\/1.1 200/g), 1, 'location: keepalive_requests 1';

# Seven requests have come so far, four to a connection, whatever the clients' limits were.
is $backend->stats->{requests}, 7, 'seven requests in all';
is $backend->stats->{accepted}, 2, 'upstream: keepalive_requests 4';

$nginx->stop;
done_testing;
