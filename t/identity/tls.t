# TLS to the upstream: connections and sessions are used again, and a server that closes an idle connection causes no failure.
#
# faults: F18.1 "a new connection resumes the session"
# faults: F18.2 "the server closes, and so do we"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my ($certificate, $key) = self_signed('localhost');
my ($port, $secure, $impatient) = map { free_port() } 1 .. 3;

# The answers contain the number of the request on its connection, and whether the TLS session was resumed ("r").
my $server = <<"END";
ssl_certificate $certificate;
ssl_certificate_key $key;
ssl_session_cache shared:tls:1m;
location / { return 200 "request \$connection_requests session \$ssl_session_reused name \$ssl_server_name\\n"; }
END

for my $protocol ('TLSv1.2', 'TLSv1.3') {
    my $nginx = Keepalive::Nginx->new(log_level => 'info', http => <<"END")->start;
ssl_protocols $protocol;
proxy_ssl_protocols $protocol;
$proxy_keepalive
upstream plain_pool { server 127.0.0.1:$secure; keepalive 4; }
upstream single_use { server 127.0.0.1:$secure; keepalive 4; keepalive_requests 1; }
upstream one_place  { server 127.0.0.1:$secure; server 127.0.0.2:$secure; keepalive 1; }
upstream short_idle { server 127.0.0.1:$secure; keepalive 4; keepalive_timeout 600ms; }
upstream impatient  { server 127.0.0.1:$impatient; keepalive 4; }
server { listen 127.0.0.1:$secure ssl; listen 127.0.0.2:$secure ssl; $server }
server { listen 127.0.0.1:$impatient ssl; keepalive_timeout 600ms; $server }
server {
    listen 127.0.0.1:$port;
    location /plain_pool { proxy_pass https://plain_pool; }
    location /single_use { proxy_pass https://single_use; }
    location /no_session { proxy_pass https://single_use; proxy_ssl_session_reuse off; }
    location /one_place  { proxy_pass https://one_place; }
    location /short_idle { proxy_pass https://short_idle; }
    location /impatient  { proxy_pass https://impatient; }
}
END
    my $ask = sub { get($port, @_)->{body} =~ /request (\d+) session (\S)/ ? "$1$2" : 'no answer' };

    is $ask->('/plain_pool'), '1.', "$protocol: the first request makes a connection and a session";
    is $ask->('/plain_pool'), '2.', "$protocol: the second request uses the connection";
    is $ask->('/plain_pool', method => 'POST', body => 'x'), '3.', "$protocol: so does a POST";

    is $ask->('/single_use'), '1.', "$protocol: a new upstream begins with a new session";
    is $ask->('/single_use'), '1r', "$protocol: a new connection resumes the session";
    is $ask->('/no_session'), '1.', "$protocol: unless proxy_ssl_session_reuse is off";

    is $ask->('/one_place'), '1.', "$protocol: one connection fills the pool of one";
    is $ask->('/one_place'), '1.', "$protocol: the other server's connection takes its place";
    is $ask->('/one_place'), '1r', "$protocol: evicted, but its session can be resumed";

    # Both ends of a connection are in this worker: when it is closed, two descriptors are gone.
    is $ask->('/short_idle'), '1.', "$protocol: idle for a short time only";
    my $open = $nginx->descriptors;
    ok wait_for { $nginx->descriptors == $open - 2 }, "$protocol: timed out, and both sides close";
    is $ask->('/short_idle'), '1r', "$protocol: its session can be resumed";
    $open = $nginx->descriptors;
    ok wait_for { $nginx->descriptors == $open - 2 }, "$protocol: timed out again";

    # The server says close_notify and closes. A stale connection would show as a 502 for the POST, or in the log.
    is $ask->('/impatient'), '1.', "$protocol: a server with a short idle limit";
    $open = $nginx->descriptors;
    ok wait_for { $nginx->descriptors == $open - 2 }, "$protocol: the server closes, and so do we";
    is $ask->('/impatient', method => 'POST', body => 'x'), '1r', "$protocol: a POST gets a new connection";
    unlike $nginx->error_log, qr/\[error\]|upstream prematurely/, "$protocol: no error was logged";

    $nginx->stop;
}

done_testing;
