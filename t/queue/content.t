# Features of nginx work for a request that waits: request bodies, error pages, stale cached answers, ignored client aborts.
#
# faults: F13.7 "the bodies arrive whole"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $limited = 'server ' . $backend->address . ' max_conns=1; keepalive 1;';
mkdir work_dir() . '/cache';

my $nginx = queue_nginx($port, {
    long  => "$limited queue 10 timeout=20s;",
    q502  => "$limited queue 10 timeout=150ms;",
    q503  => "$limited queue 10 timeout=150ms status=503;",
    q504  => "$limited queue 10 timeout=150ms status=504;",
    full  => "$limited queue 1 timeout=20s status=503;",
}, http => <<"END", locations => <<'END')->start;
client_body_buffer_size 8k;
proxy_cache_path @{[ work_dir() ]}/cache keys_zone=cache:1m;
proxy_cache_key \$uri;
END
    location /unbuffered { proxy_request_buffering off; proxy_pass http://long; }
    location /ignore { proxy_ignore_client_abort on; proxy_pass http://long; }
    location /page502 { error_page 502 /sorry; proxy_pass http://q502; }
    location /page503 { error_page 503 =200 /sorry; proxy_pass http://full; }
    location /page504 { error_page 504 @other; proxy_pass http://q504; }
    location /intercepted { proxy_intercept_errors on; error_page 502 /sorry; proxy_pass http://q502; }
    location /sorry { return 200 sorry; }
    location @other { proxy_pass http://long; }
    location /cached/ {
        proxy_cache cache;
        proxy_cache_valid 200 1s;
        add_header X-Cache $upstream_cache_status;
        location /cached/error502 { proxy_cache_use_stale error; proxy_pass http://q502; }
        location /cached/timeout502 { proxy_cache_use_stale timeout; proxy_pass http://q502; }
        location /cached/both503 { proxy_cache_use_stale error timeout; proxy_pass http://q503; }
        location /cached/error504 { proxy_cache_use_stale error; proxy_pass http://q504; }
        location /cached/timeout504 { proxy_cache_use_stale timeout; proxy_pass http://q504; }
        location /cached/locked { proxy_cache_lock on; proxy_pass http://long; }
    }
END

# Holds the server of an upstream until the request is aborted.
sub hold {
    my ($name) = @_;
    my $before = $backend->stats->{requests};
    my $held = begin($port, "/$name?fault=hang&at=start");
    ok wait_for { $backend->stats->{requests} == $before + 1 }, "$name: the server is held";
    return $held;
}

# Request bodies: in memory, in a file, chunked, and passed on while they come.
for my $location ('/long', '/unbuffered') {
    my $held = hold('long');
    my $text = 'x' x 1000;
    my @requests = (
        begin($port, $location, method => 'POST', body => $text),
        begin($port, $location, method => 'POST', body => $text x 300),
        begin($port, $location, method => 'POST', chunks => [$text, $text]),
        begin($port, $location, method => 'PUT', body => ''),
        begin($port, $location),
    );
    settle($port);
    # The first half comes before the wait is over, the second one after it.
    push @requests, begin($port, $location, method => 'POST', body => $text, content_length => 2000);
    settle($port);
    $held->abort;
    my @answers = map { $_->finish } @requests[0 .. 4];
    is join(' ', map { "$_->{status}:" . ($_->{headers}{'x-body-length'} // 'none') } @answers),
        '200:1000 200:300000 200:2000 200:0 200:0', "$location: the bodies arrive whole";
    sleep 0.05;
    $requests[5]->more($text);
    my $answer = $requests[5]->finish;
    is $answer->{headers}{'x-body-length'}, 2000, "$location: so does one that is completed after the wait";
    is get($port, $location)->{status}, 200, "$location: the next request is served";

    # A client that leaves in the middle of its body, and one whose body comes too late for the queue's timeout.
    $held = hold('long');
    my $leaver = begin($port, $location, method => 'POST', body => $text, content_length => 2000);
    settle($port);
    $leaver->abort;
    my $waits = begin($port, "$location?n=after", method => 'POST', body => $text);
    settle($port);
    $held->abort;
    is $waits->finish->{headers}{'x-body-length'}, 1000, "$location: a client that left in its body disturbs nobody";
}
ok wait_for { $backend->stats->{open} <= 1 }, 'no connection of those who left stays open';

# A body that is not read: the answer is the same, and the connection to the client is closed properly.
{
    my $held = hold('q502');
    is get($port, '/q502', method => 'POST', body => 'x' x 500000)->{status}, 502, 'a long body that times out in the queue';
    $held->abort;
}

# Error pages.
{
    my @held = map { hold($_) } qw(q502 full q504);
    my $waits = begin($port, '/full');
    settle($port);
    my $answer = get($port, '/page502');
    is "$answer->{status} $answer->{body}", '502 sorry', 'error_page for a timeout in the queue';
    $answer = get($port, '/page503');
    is "$answer->{status} $answer->{body}", '200 sorry', 'error_page for a full queue';
    $answer = get($port, '/page504');
    like "$answer->{status} $answer->{body}", qr/^504 connection/, 'error_page that asks another upstream';
    $answer = get($port, '/intercepted');
    is "$answer->{status} $answer->{body}", '502 sorry', 'error_page with proxy_intercept_errors';
    $_->abort for @held;
    is $waits->finish->{status}, 200, 'the one that waited is served';
}

# Stale answers.
{
    my @paths = map { "/cached/$_" } qw(error502 timeout502 both503 error504 timeout504);
    is get($port, $_)->{headers}{'x-cache'}, 'MISS', "$_: stored" for @paths;
    is get($port, $_)->{headers}{'x-cache'}, 'HIT', "$_: found" for @paths;
    sleep 2.1;
    my @held = map { hold($_) } qw(q502 q503 q504);
    my @answers = map { $_->finish } map { begin($port, $_) } @paths;
    is join(' ', map { $_->{status} . ($_->{headers}{'x-cache'} // '') =~ s/EXPIRED//r } @answers),
        '200STALE 502 503 504 200STALE', 'a stale answer is served for what use_stale names: 502 is an error, 504 a timeout';
    is $answers[0]{body} =~ /^connection/, 1, 'it is the stored one';
    $_->abort for @held;
    is get($port, $_)->{headers}{'x-cache'}, 'EXPIRED', "$_: renewed when the server is free" for @paths;
}

# Requests for the same uncached answer: one of them waits in the queue, the others for its answer.
{
    my $held = hold('long');
    my @requests = map { begin($port, '/cached/locked') } 1 .. 5;
    settle($port);
    my $before = $backend->stats->{requests};
    $held->abort;
    is statuses(@requests), '200 x 5', 'with proxy_cache_lock all are answered';
    is $backend->stats->{requests}, $before + 1, 'by one request to the server';
}

# proxy_ignore_client_abort: a request waits on although its client has left.
{
    my $held = hold('long');
    my $before = $backend->stats->{requests};
    my $leaver = begin($port, '/ignore?n=leaver');
    settle($port);
    $leaver->abort;
    settle($port);
    $held->abort;
    ok wait_for { $backend->stats->{requests} == $before + 1 }, 'told to ignore it, nginx serves the request of a client that left';
    ok wait_for { log_of($nginx, '/ignore?n=leaver') }, 'to its end';
    is get($port, '/long')->{status}, 200, 'and then the next one';
}

$nginx->stop;
done_testing;
