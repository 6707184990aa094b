# A TLS session is resumed only by the identity that created it, since the server takes whoever resumes it for that identity.
#
# faults: F18.1 "Bob is Bob"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my ($certificate, $key) = self_signed('localhost');
my %client = map { $_ => [self_signed($_)] } qw(alice bob);

for my $protocol ('TLSv1.2', 'TLSv1.3') {
    for my $zone ('', 'zone secure 64k;') {
        my ($port, $secure) = map { free_port() } 1 .. 2;
        my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
ssl_protocols $protocol;
proxy_ssl_protocols $protocol;
$proxy_keepalive
# Each request shakes hands anew.
upstream secure { server 127.0.0.1:$secure; $zone keepalive 4; keepalive_requests 1; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_verify_client optional_no_ca;
    ssl_session_cache shared:tls:1m;
    location / { return 200 "session \$ssl_session_reused dn \$ssl_client_s_dn\\n"; }
}
server {
    listen 127.0.0.1:$port;
    location /alice { proxy_pass https://secure; proxy_ssl_certificate $client{alice}[0]; proxy_ssl_certificate_key $client{alice}[1]; }
    location /bob   { proxy_pass https://secure; proxy_ssl_certificate $client{bob}[0]; proxy_ssl_certificate_key $client{bob}[1]; }
    location /none  { proxy_pass https://secure; }
}
END
        my $what = "$protocol, " . ($zone ? 'zone' : 'no zone');
        for my $round (1, 2, 3) {
            my $session = $round == 1 ? '.' : 'r';
            is get($port, '/alice')->{body}, "session $session dn CN=alice\n", "$what: Alice is Alice, round $round";
            is get($port, '/bob')->{body}, "session $session dn CN=bob\n", "$what: Bob is Bob, round $round";
            is get($port, '/none')->{body}, "session $session dn \n", "$what: nobody is nobody, round $round";
        }
        $nginx->stop;
    }
}

# With `local` and without sessions: a certificate from variables makes nginx shake hands with another configuration than
# the location's, but the connection is the location's.
{
    my ($port, $secure) = map { free_port() } 1 .. 2;
    my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream secure { server 127.0.0.1:$secure; keepalive 4 local; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_verify_client optional_no_ca;
    location / { return 200 "request \$connection_requests dn \$ssl_client_s_dn\n"; }
}
server {
    listen 127.0.0.1:$port;
    proxy_ssl_session_reuse off;
    proxy_ssl_certificate @{[ work_dir() ]}/\$arg_who.crt;
    proxy_ssl_certificate_key @{[ work_dir() ]}/\$arg_who.key;
    location /one { proxy_pass https://secure; }
    location /two { proxy_pass https://secure; }
}
END
    for my $round (1, 2, 3) {
        for my $path ('/one?who=alice', '/two?who=alice', '/one?who=bob') {
            my ($who) = $path =~ /who=(.*)/;
            is get($port, $path)->{body}, "request $round dn CN=$who\n", "local, no sessions: $path, round $round";
        }
    }
    $nginx->stop;
}

done_testing;
