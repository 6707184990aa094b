# The queue works the same for every protocol, on both sides: TLS, gRPC, FastCGI and the others, upgraded connections, and clients
# that speak HTTP/2.
#
# faults: F13.7 "those who stay are served"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my ($port, $inner, $client_port) = map { free_port() } 1 .. 3;
my $queue = 'max_conns=1; keepalive 1; queue 10 timeout=20s;';

# One request holds the server, others wait and are served; then one more has no place and one gives up.
sub expect_queue {
    my ($title, $nginx, $location, $backend, %options) = @_;
    $nginx->start;
    $backend->reset;
    my $held = begin($port, "$location?fault=hang&at=start");
    ok wait_for { $backend->stats->{requests} == 1 }, "$title: the server is held" or diag $nginx->error_log;
    my @waiting = map { begin($port, "$location?n=$_", %options) } 1 .. 10;
    settle($port);
    is get($port, "$location?n=11")->{status}, 502, "$title: a full queue";
    is $backend->stats->{requests}, 1, "$title: ten wait";
    my $leaver = pop @waiting;
    $leaver->abort;
    $held->abort;
    my @answers = map { $_->finish } @waiting;
    is statuses(@answers), '200 x 9', "$title: those who stay are served";
    is $answers[0]{headers}{'x-body-length'}, length $options{body}, "$title: with their bodies" if $options{body};
    my @line;
    wait_for { @line = log_of($nginx, "$location?n=9") };
    cmp_ok $line[0]{queue}, '>', 0, "$title: after a wait";
    is get($port, $location)->{status}, 200, "$title: the next one, too";
    is $backend->stats->{max_open}, 1, "$title: never more than one connection";
    $nginx->stop;
}

# FastCGI, uwsgi, SCGI, memcached.
my $params = sub { my ($name) = @_; "${name}_param REQUEST_METHOD \$request_method; ${name}_param REQUEST_URI \$request_uri;"
    . " ${name}_param CONTENT_LENGTH \$content_length; ${name}_param QUERY_STRING \$query_string;" };
my %passes = (
    fastcgi   => 'fastcgi_pass u; fastcgi_keep_conn on; ' . $params->('fastcgi'),
    fastcgi_close => 'fastcgi_pass u; ' . $params->('fastcgi'),
    uwsgi     => 'uwsgi_pass u; ' . $params->('uwsgi'),
    scgi      => 'scgi_pass u; ' . $params->('scgi'),
    memcached => 'set $memcached_key $request_uri; memcached_pass u;',
);
for my $name (sort keys %passes) {
    my ($protocol) = $name =~ /^([a-z]+)/;
    my $backend = Keepalive::Backend->start(protocol => $protocol);
    expect_queue($name, queue_nginx($port, {}, http => "upstream u { server @{[ $backend->address ]} $queue }",
        locations => "location /x { $passes{$name} }"), '/x', $backend);
}

# Those below speak with another server of the same nginx, which passes their requests on to the backend.
my $backend = Keepalive::Backend->start;
my ($certificate, $key) = self_signed('localhost');

sub through {
    my ($listen, $location) = @_;
    return queue_nginx($port, {}, http => <<"END", locations => "location /x { $location }");
upstream u { server 127.0.0.1:$inner $queue }
server {
    $listen
    location / { proxy_http_version 1.0; proxy_pass http://@{[ $backend->address ]}; }
}
END
}

SKIP: {
    skip 'nginx has no TLS', 1 unless has_feature('with-http_ssl_module');
    my $listen = "listen 127.0.0.1:$inner ssl; ssl_certificate $certificate; ssl_certificate_key $key;";
    expect_queue('https', through($listen, 'proxy_pass https://u;'), '/x', $backend, method => 'POST', body => 'x' x 50000);

    # A handshake that takes as long as it wants: the wait of the others goes on.
    my $nginx = through($listen, 'proxy_pass https://u; proxy_ssl_verify on; proxy_ssl_name localhost;'
        . " proxy_ssl_trusted_certificate $certificate;")->start;
    is statuses(map { begin($port, "/x?n=$_&delay=5") } 1 .. 10), '200 x 10', 'https, verified: all are served';
    is established($inner), 1, 'https, verified: over one connection';
    $nginx->stop;
    $nginx = through($listen, 'proxy_pass https://u; proxy_ssl_verify on; proxy_ssl_name other;'
        . " proxy_ssl_trusted_certificate $certificate;")->start;
    is statuses(map { begin($port, "/x?n=$_&delay=5") } 1 .. 10), '502 x 10', 'https, a bad certificate: each is refused in its turn';
    is established($inner), 0, 'https, a bad certificate: no connection is left';
    $nginx->stop;
}

my $h2 = version_at_least('1.25.1') ? 'http2 on;' : '';
my $h2_listen = $h2 ? "listen 127.0.0.1:$inner; $h2" : "listen 127.0.0.1:$inner http2;";
SKIP: {
    skip 'no gRPC without HTTP/2', 1 unless has_feature('with-http_v2_module');
    expect_queue('grpc', through($h2_listen, 'grpc_pass grpc://u;'), '/x', $backend, method => 'POST', body => 'x' x 1000);
    skip 'proxying by HTTP/2 needs 1.29.4', 1 unless version_at_least('1.29.4');
    expect_queue('proxy, HTTP/2', through($h2_listen, 'proxy_pass http://u; proxy_http_version 2;'), '/x', $backend);
}

# Upgraded connections keep their slot until they end; requests that wait for one are upgraded in their turn.
{
    my $nginx = queue_nginx($port, { u => 'server ' . $backend->address . " $queue" },
        inside => 'proxy_set_header Connection upgrade; proxy_set_header Upgrade echo;')->start;
    $backend->reset;
    my %upgrade = (headers => { Upgrade => 'echo', Connection => 'upgrade' }, keep_alive => 1);
    my $first = begin($port, '/u?upgrade=1', %upgrade);
    like $first->receive, qr/^HTTP\/1.1 101 /, 'upgrade: the first is switched';
    my $second = begin($port, '/u?upgrade=1', %upgrade);
    settle($port);
    my $plain = begin($port, '/u');
    settle($port);
    is $backend->stats->{requests}, 1, 'upgrade: the others wait as long as it lasts';
    $first->more("hello");
    is $first->receive, 'hello', 'upgrade: the first one goes on meanwhile';
    $first->abort;
    like $second->receive, qr/^HTTP\/1.1 101 /, 'upgrade: the second is switched when the first has ended';
    $second->more("world");
    is $second->receive, 'world', 'upgrade: and echoed';
    is $backend->stats->{requests}, 2, 'upgrade: the third still waits';
    $second->abort;
    is $plain->finish->{status}, 200, 'upgrade: and is served in the end';
    is $backend->stats->{max_open}, 1, 'upgrade: one connection at a time';
    $nginx->stop;
}

# Clients that speak HTTP/2: many requests on one connection wait side by side.
SKIP: {
    skip 'nginx has no HTTP/2', 1 unless has_feature('with-http_v2_module');
    skip 'there is no curl with HTTP/2', 1 unless `curl --version 2>/dev/null` =~ /^Features:.*\bHTTP2\b/m;
    my $listen = $h2 ? "listen 127.0.0.1:$client_port; $h2" : "listen 127.0.0.1:$client_port http2;";
    my $nginx = queue_nginx($port, { u => 'server ' . $backend->address . " $queue" }, http => <<"END")->start;
server { $listen location / { proxy_pass http://u; } }
END
    $backend->reset;
    my $curl = 'curl -s --max-time 20 --http2-prior-knowledge -o /dev/null -w "%{http_code} %{http_version}\n"';
    my $url = "http://127.0.0.1:$client_port";
    my $all = `$curl --parallel --parallel-immediate "$url/?delay=5&n=[1-10]" 2>/dev/null`;
    is $all, "200 2\n" x 10, 'HTTP/2: ten requests';
    is $backend->stats->{max_open}, 1, 'HTTP/2: over one connection';

    # A client that gives up: its streams leave the queue.
    my $held = begin($port, '/u?fault=hang&at=start');
    ok wait_for { $backend->stats->{requests} == 11 }, 'HTTP/2: the server is held';
    $all = `$curl --max-time 0.3 --parallel --parallel-immediate "$url/?n=[1-10]" 2>/dev/null`;
    is $all =~ /200/, '', 'HTTP/2: ten streams wait for longer than the client does';
    my $waits = begin($port, '/u?n=after');
    settle($port);
    $held->abort;
    is $waits->finish->{status}, 200, 'HTTP/2: the next one is served';
    is $backend->stats->{requests}, 12, 'HTTP/2: the server never hears of those who left';
    $nginx->stop;
}

done_testing;
