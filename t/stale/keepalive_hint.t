# keepalive_hint: the server's Keep-Alive header also limits how long a connection is idle and how many requests it serves.
#
# faults: F11.5 "closed at once" "fifty requests, one connection" "max=1: one more request" "it is not closed" ": ignored"
# faults: F11.5 "in two headers"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $fastcgi = Keepalive::Backend->start(protocol => 'fastcgi');
my $port = free_port();
my %upstreams = (
    plain => 'keepalive_hint on;',
    off   => 'keepalive_hint off;',
    exact => 'keepalive_hint on margin=0;',
    early => 'keepalive_hint on margin=2500ms;',
    second => 'keepalive_hint on margin=1s;',
    soon  => 'keepalive_hint on margin=700ms;',
    short => 'keepalive_timeout 400ms;',
);
my $blocks = join '', map { "upstream $_ { server @{[ $backend->address ]}; keepalive 4; $upstreams{$_} }\n" } sort keys %upstreams;
my $locations = join '', map { "location /$_ { proxy_pass http://$_/; }\n" } sort keys %upstreams;
my $auth = has_feature('with-http_auth_request_module');
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
$blocks
proxy_cache_path @{[ work_dir() ]}/cache keys_zone=hints:1m;
upstream fast { server @{[ $fastcgi->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    $locations
    location /cached {
        proxy_cache hints;
        proxy_cache_key \$uri;
        proxy_cache_valid 200 1s;
        proxy_cache_revalidate on;
        proxy_pass http://plain/?\$http_x_script;
    }
    location /request { proxy_read_timeout 590ms; proxy_pass http://soon/; }
    location /hidden { proxy_hide_header Keep-Alive; proxy_pass http://plain/; }
    location /fast { fastcgi_keep_conn on; fastcgi_pass fast; fastcgi_param QUERY_STRING \$args;
        fastcgi_param REQUEST_METHOD \$request_method; fastcgi_param REQUEST_URI \$request_uri; }
    @{[ $auth ? 'location /asked { auth_request /ask; proxy_pass http://off/; } location /ask { proxy_pass http://plain/?\$http_x_script; }' : '' ]}
}
END

# A script whose answer has these Keep-Alive headers.
sub hint { join '&', map { my $value = $_; $value =~ s/([^\w=-])/sprintf '%%%02X', ord $1/ge; "header=Keep-Alive:$value" } @_ }

sub afresh {
    my ($server) = @_;
    $server->drop;
    wait_for { !$server->stats->{open} };
    $server->reset;
}

# How long the server sees a connection idle before nginx closes it, after some other requests; undef if it is still open after a
# while.
sub idle_time {
    my ($path, $patience, @before) = @_;
    my $server = $path =~ m{^/fast} ? $fastcgi : $backend;
    afresh($server);
    get($port, $_) for @before;
    get($port, $path)->{status} == 200 or return 'no answer';
    return 'another connection' if $server->stats->{accepted} != 1;
    my $begun = time;
    sleep 0.01 while $server->stats->{open} && time - $begun < $patience;
    return $server->stats->{open} ? undef : time - $begun;
}

sub closes_within {
    my ($path, $from, $to, $title, @before) = @_;
    my $time = idle_time($path, $to + 1, @before);
    ok defined $time && $time >= $from && $time <= $to, $title or diag $time // 'not at all';
}

# A tenth less than the server says, and a round trip, which is none here.
closes_within('/plain?' . hint('timeout=1'), 0.8, 1.4, 'timeout=1: closed after 900 milliseconds');
closes_within('/plain?' . hint('timeout=2'), 1.7, 2.3, 'timeout=2: closed after 1800 milliseconds');
closes_within('/plain?' . hint('Timeout = 1 , max=100'), 0.8, 1.4, 'other parameters, blanks and capitals');
closes_within('/plain?' . hint('max=100', 'timeout=1'), 0.8, 1.4, 'in two headers');
closes_within('/plain?' . hint('timeout=30, timeout=1'), 0.8, 1.4, 'of two the smaller one counts');
closes_within('/plain?' . hint(@$_), 0.8, 1.4, "in two headers: @$_") for ['timeout=30', 'timeout=1'], ['timeout=1', 'timeout=30'];
closes_within('/hidden?' . hint('timeout=1'), 0.8, 1.4, 'hidden from the client');
closes_within('/plain?framing=chunked&' . hint('timeout=1'), 0.8, 1.4, 'in chunks');
# A margin that was written holds.
closes_within('/second?' . hint('timeout=2'), 0.9, 1.6, 'a margin of a second');
closes_within('/early?' . hint('timeout=3'), 0.4, 1.0, 'a margin of 2.5 seconds');
# nginx moves no timer by less than 300 ms, and leaves that of the request set.
closes_within('/request?' . hint('timeout=1'), 0.2, 0.5, 'the timeout of the request does not count');
closes_within('/exact?' . hint('timeout=1'), 0.9, 1.6, 'no margin');
closes_within('/short?' . hint('timeout=60'), 0.3, 0.9, 'keepalive_timeout is shorter');

# Nothing left of its time, or of its requests: not stored at all.
closes_within('/plain?' . hint($_), 0, 0.5, "$_: closed at once") for 'timeout=0', 'max=0', 'timeout=5, max=0';
closes_within('/second?' . hint('timeout=1'), 0, 0.5, 'timeout=1 within a margin of a second: closed at once');
closes_within('/early?' . hint('timeout=2'), 0, 0.5, 'timeout=2 within a margin of 2.5 seconds: closed at once');
closes_within('/exact?' . hint('timeout=0'), 0, 0.5, 'timeout=0 without a margin: closed at once');

# Invalid headers are ignored, and so are those that are not for this connection.
is idle_time('/plain?' . hint($_), 0.3), undef, "$_: ignored"
    for 'timeout=-1', 'timeout=1.5', 'timeout=1s', 'timeout=', 'timeout', '1', 'time=1', 'timeout=99999999999999999999', 'max=x', '',
        'timeout="1"', ',,=,';
# What is longer than any time that nginx knows is no limit.
is idle_time('/plain?' . hint("timeout=$_"), 0.3), undef, "timeout=$_: it is not closed"
    for qw(2147483648 4294967295 4294967297 9223372036854775 9223372036854776 9223372036854775807 18446744073709551615);
is idle_time('/off?' . hint('timeout=1, max=0'), 0.3), undef, 'keepalive_hint off: ignored';
is idle_time('/fast?' . hint('timeout=1, max=0'), 0.3), undef, 'a header of a FastCGI application: ignored';

# On a connection that was used before, what the server said then does not count.
for my $before (undef, 'timeout=9', 'timeout=90', 'timeout=1, max=9') {
    my @before = ('/plain?' . ($before ? hint($before) : '')) x 2;
    my $after = 'after ' . ($before // 'nothing');
    closes_within('/plain?' . hint('timeout=1'), 0.8, 1.4, "timeout=1 $after", @before);
    closes_within('/plain?' . hint('Timeout=1 , max=100'), 0.8, 1.4, "other parameters and blanks $after", @before);
    closes_within('/plain?' . hint('timeout=30', 'timeout=1'), 0.8, 1.4, "two headers $after", @before);
    closes_within('/plain?' . hint($_), 0, 0.5, "$_ $after", @before) for 'timeout=0', 'timeout=5, max=0';
    is idle_time('/plain?' . hint($_), 1.2, @before), undef, "$_ $after" for 'timeout=3', 'timeout=90, max=7';
    is idle_time('/plain', 1.2, @before), undef, "no header $after";
}

# However short its time is, a server that keeps connections at all gets them back.
for my $timeout (1, 2, 5) {
    afresh($backend);
    get($port, '/plain?' . hint("timeout=$timeout")) for 1 .. 50;
    is $backend->stats->{accepted}, 1, "timeout=$timeout: fifty requests, one connection";
}

# This many more requests, counted from the first header, whatever later headers say.
sub connections { join ' ', map { get($port, $_)->{headers}{'x-connection'} } @_ }

afresh($backend);
is connections(('/plain?' . hint('max=1')) x 3), '1 1 2', 'max=1: one more request';
afresh($backend);
is connections('/plain?' . hint('max=9', 'max=1'), ('/plain') x 2), '1 1 2', 'max=9 and max=1 in two headers: the smaller one counts';
afresh($backend);
is connections(('/plain?' . hint('max=2')) x 4), '1 1 1 2', 'max=2 each time: the first word counts';
afresh($backend);
is connections(('/plain?' . hint('timeout=9, max=2')) x 4), '1 1 1 2', 'timeout=9, max=2 each time: the first word counts';
afresh($backend);
is connections(map { '/plain?' . hint("timeout=9, max=$_") } 9, 1, 9, 9), '1 1 1 2', 'max=9, then max=1';
afresh($backend);
is connections(map { '/plain?' . hint("timeout=90, max=$_") } reverse 0 .. 4), '1 1 1 1 1', 'max=4 down to max=0';
is $backend->stats->{open}, 0, '... then it is closed';
afresh($backend);
is connections('/plain?' . hint('max=2'), ('/plain') x 4), '1 1 1 2 2', 'max=2 once: two more requests';
afresh($backend);
is connections('/plain?' . hint('max=2'), '/plain?' . hint('max=9'), ('/plain') x 2), '1 1 1 2', 'max=2, then max=9: it is two all the same';
afresh($backend);
is connections('/plain?' . hint('max=3'), '/plain?' . hint('max=0'), '/plain'), '1 1 2', 'max=3, then max=0';
afresh($backend);
is connections('/plain?' . hint('max=99999999999999999999'), ('/plain') x 3), '1 1 1 1', 'a huge number is no limit';

# Answers that are drained.
SKIP: {
    skip 'nginx has no auth_request', 3 unless $auth;
    afresh($backend);
    get($port, '/asked', headers => { 'X-Script' => 'len=1000&' . hint('timeout=1') });
    # The other connection is the request's own.
    ok wait_for { $backend->stats->{open} == 2 }, 'a drained answer: its connection is kept';
    my $begun = time;
    ok wait_for { $backend->stats->{open} == 1 }, 'and closed';
    my $took = time - $begun;
    ok $took > 0.6 && $took < 1.6, 'in time' or diag $took;
}

# What the cache remembers of another connection says nothing of this one.
{
    afresh($backend);
    my @modified = ('header=Last-Modified:Fri%2c%2020%20Nov%202026%2019:00:00%20GMT');
    get($port, '/cached', headers => { 'X-Script' => join '&', @modified, hint('timeout=1, max=0') });
    ok wait_for { !$backend->stats->{open} }, 'cached: the connection of the first answer is closed';
    for my $round (1, 2) {
        sleep 2.1;
        get($port, '/cached', headers => { 'X-Script' => join '&', 'status=304', @modified });
    }
    is $backend->stats->{requests}, 3, 'cached: it is asked whether the answer is still good';
    is $backend->stats->{accepted}, 2, 'cached: the connection of the second answer is kept';
}

# Servers as they are met. Node.js before its version 20: five seconds, and says so. The requests come around the moment at
# which nginx closes its side, and the server its own.
afresh($backend);
my $node = 'idle=2000&' . hint('timeout=2');
my @lost;
for (1 .. 8) {
    push @lost, grep { $_ != 200 } get($port, "/plain?$node", method => 'POST', body => 'x')->{status};
    sleep 1.7 + rand 0.35;
}
is "@lost", '', 'a server that closes after two seconds, and says so: no POST is lost';

# gunicorn: two seconds, and does not say so.
@lost = ();
for (1 .. 3) {
    push @lost, grep { $_ != 200 } get($port, '/plain?idle=1000', method => 'POST', body => 'x')->{status};
    sleep 0.98 + rand 0.04;
}
is "@lost", '', 'a server that closes after a second, and does not say so: no POST is lost';

$nginx->stop;
done_testing;
