# keepalive_stale_retry: when the server closes the connection while a request is on its way, the request is sent again, whatever
# its method, but only if it cannot have arrived. Over a link with a delay of 50 ms.
#
# faults: F1.4 "with a body" "the server takes a POST of"
# faults: F2.4 "POST, a reset: not sent again" "POST, a reset, always: sent again"
# faults: F3.1 "without a body" "with a body" "POST with a large body, from a file" "POST in chunks"
# faults: F3.2 "POST, its body was not kept"
# faults: F3.3 "POST, proxy_next_upstream off: that is about servers"
# faults: F18.2 "no POST is lost"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;
use Time::HiRes qw(sleep);

use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;
my $link = Keepalive::Link->start(delay => 50) or plan skip_all => 'TUN devices are not permitted';

my $far = $Keepalive::Link::FAR;
my @there = (host => $far, within => [$link->within]);
my $backend = Keepalive::Backend->start(@there);
my $fastcgi = Keepalive::Backend->start(@there, protocol => 'fastcgi');
my $port = free_port();

my %upstreams = (
    safe    => '',
    off     => 'keepalive_stale_retry off;',
    always  => 'keepalive_stale_retry always;',
    limited => "zone limited 128k; queue 10 timeout=5s;",
);
my $blocks = '';
for my $name (sort keys %upstreams) {
    my $parameters = $name eq 'limited' ? 'max_conns=1' : '';
    $blocks .= "upstream $name { server @{[ $backend->address ]} $parameters; keepalive 4; $upstreams{$name} }\n";
}
my $locations = join '', map { "location /$_ { proxy_pass http://$_/; }\n" } sort keys %upstreams;
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 3s;
client_body_buffer_size 16k;
client_max_body_size 10m;
$blocks
upstream fast { server @{[ $fastcgi->address ]}; keepalive 4; }
log_format tries '\$request_method \$upstream_status \$upstream_addr';
server {
    listen 127.0.0.1:$port;
    access_log @{[ work_dir() ]}/tries.log tries;
    $locations
    location /never { proxy_next_upstream off; proxy_pass http://safe/; }
    location /once { proxy_next_upstream_tries 1; proxy_pass http://safe/; }
    location /late { proxy_next_upstream_timeout 10ms; proxy_pass http://safe/; }
    location /streamed { proxy_request_buffering off; proxy_pass http://safe/; }
    location /fast { fastcgi_keep_conn on; fastcgi_pass fast; fastcgi_param QUERY_STRING \$args;
        fastcgi_param REQUEST_METHOD \$request_method; fastcgi_param CONTENT_LENGTH \$content_length; fastcgi_param REQUEST_URI \$request_uri; }
}
END

my $id = 0;

# The server answers, and ends the connection 60 ms later, when the next request has left and has not come yet. Returns what
# becomes of that request, and how often the server has got it.
sub race {
    my ($location, $how, %options) = @_;
    my $server = $location eq 'fast' ? $fastcgi : $backend;
    # On a busy machine the request can be late, and nginx knows that the connection is closed.
    for (1 .. 5) {
        $server->drop;
        wait_for { !$server->stats->{open} } or die 'the pool is not empty';
        sleep 0.06;
        $server->reset;
        get($port, "/$location?fault=$how&after=60")->{status} == 200 or die 'the first request is not answered';
        my $before = stale_hits();
        my $answer = get($port, "/$location?id=" . ++$id, %options);
        next if stale_hits() == $before;
        my $stats = $server->stats;
        my $times = $stats->{ids} + $stats->{ids_again};
        my $connection = $answer->{headers}{'x-connection'} // '-';
        return "$answer->{status} by connection $connection, came $times times";
    }
    return 'the request is always late';
}

# How many connections have failed so far.
sub stale_hits {
    my $hits = () = $nginx->error_log =~ /prematurely closed|reset by peer|Broken pipe/g;
    return $hits;
}

my $again = '200 by connection 2, came 1 times';
my $lost = '502 by connection -, came 0 times';
my %post = (method => 'POST', body => 'x' x 10);

# Every method, though nginx itself repeats POST, LOCK and PATCH in no case.
is race('safe', 'close', method => $_), $again, "$_ without a body" for qw(GET DELETE POST PATCH LOCK);
is race('safe', 'close', method => $_, body => 'x' x 1000), $again, "$_ with a body" for qw(PUT POST PATCH LOCK);
is race('safe', 'close', method => 'POST', body => 'x' x 2_000_000), $again, 'POST with a large body, from a file';
is race('safe', 'close', method => 'POST', chunks => [('x' x 1000) x 3]), $again, 'POST in chunks';
is race('fast', 'close', %post), $again, 'POST over FastCGI';

# A reset proves nothing.
is race('safe', 'reset', %post), $lost, 'POST, a reset: not sent again';
is race('safe', 'reset', method => 'GET'), $again, 'GET, a reset: sent again, as ever';
is race('always', 'reset', %post), $again, 'POST, a reset, always: sent again';
is race('always', 'close', %post), $again, 'POST, always: sent again';
is race('off', 'close', %post), $lost, 'POST, off: not sent again';
is race('off', 'close', method => 'GET'), $again, 'GET, off: sent again, as ever';

# What limits nginx's own tries.
is race('never', 'close', %post), $again, 'POST, proxy_next_upstream off: that is about servers';
is race('never', 'close', method => 'GET'), $again, 'GET, proxy_next_upstream off';
is race('never', 'reset', method => 'GET'), $lost, 'GET, proxy_next_upstream off, a reset';
is race('once', 'close', %post), $again, 'POST, one try';
is race('late', 'close', %post), $lost, 'POST, proxy_next_upstream_timeout is over';
is race('streamed', 'close', method => 'POST', body => 'x' x 100_000), $lost, 'POST, its body was not kept';
is race('streamed', 'close', method => 'GET'), $again, 'GET, no body to be kept';

# The place of the connection passes on to the next one.
is race('limited', 'close', %post), $again, 'POST, max_conns=1';
my @both = map { begin($port, '/limited?delay=50', %post) } 1 .. 3;
is join(' ', map { $_->finish->{status} } @both), '200 200 200', 'max_conns=1: those that wait have their turn';
is $backend->stats->{max_open}, 1, 'never more than one connection';

# The server has the request, and closes instead of answering: whatever it looks like here, it may have acted on it.
# (With `always`, a reset that comes before the acknowledgement has left would be taken for a proof.)
for my $location (qw(safe always never)) {
    for my $fault ('close', $location eq 'always' ? () : 'reset') {
        for my $size (10, 100_000) {
            $backend->drop;
            wait_for { !$backend->stats->{open} };
            $backend->reset;
            get($port, "/$location");
            my $name = ++$id;
            my $answer = get($port, "/$location?id=$name&fault=$fault&at=start&from=2", method => 'POST', body => 'x' x $size);
            my $stats = $backend->stats;
            is "$answer->{status}, came $stats->{ids} times and $stats->{ids_again} again", '502, came 1 times and 0 again',
                "$location: the server takes a POST of $size bytes, then $fault";
        }
    }
}
# A POST whose body the server does not read to its end.
get($port, '/safe');
is get($port, '/safe?early=1&fault=close&at=start&from=2', method => 'POST', body => 'x' x 3_000_000)->{status}, 502,
    'the server closes in the middle of a POST';

# Clients that leave meanwhile.
for my $wait (0.01, 0.06, 0.13) {
    for (1 .. 5) {
        get($port, '/limited?fault=close&after=60');
        my $request = begin($port, '/limited', %post);
        sleep $wait;
        $request->abort;
    }
}
is get($port, '/limited', %post)->{status}, 200, 'the place of those that left is free';

# TLS: the server, an nginx, says goodbye while the request is on its way.
SKIP: {
    skip 'nginx has no TLS', 4 unless has_feature('with-http_ssl_module');
    my ($certificate, $key) = self_signed('localhost');
    my ($secure, $front) = map { free_port() } 1, 2;
    my $config = sub {
        my ($protocol) = @_;
        my $hosts = Keepalive::Nginx->new(within => [$link->within], http => <<"END")->start;
server {
    listen $far:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_protocols $protocol;
    keepalive_timeout 30ms;
    access_log @{[ work_dir() ]}/$protocol.log combined;
    location / { return 200 "request \$connection_requests"; }
}
END
        return $hosts;
    };
    for my $protocol ('TLSv1.2', 'TLSv1.3') {
        my $server = $config->($protocol);
        my $client = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_ssl_protocols $protocol;
upstream secure { server $far:$secure; keepalive 4; keepalive_hint off; }
server { listen 127.0.0.1:$front; location / { proxy_pass https://secure; } }
END
        my @statuses = map { get($front, '/', method => 'POST', body => 'x')->{status} } 1 .. 6;
        is "@statuses", '200 200 200 200 200 200', "$protocol: no POST is lost";
        my $stale = () = $client->error_log =~ /prematurely closed/g;
        cmp_ok $stale, '>', 0, "$protocol: though some had a stale connection";
        open my $in, '<', work_dir() . "/$protocol.log" or die $!;
        my @lines = <$in>;
        is scalar @lines, 6, "$protocol: each came once";
        $client->stop;
        $server->stop;
    }
}

unlike $nginx->error_log, qr/no live upstreams/, 'no server was taken for failed';
$nginx->stop;
done_testing;
