# Subrequests in the queue: a thousand authorised over four connections, and what happens when a main request and its own
# subrequest need the same full server.
#
# faults: F13.6 "a thousand at once: all are answered" "twenty at once, over one connection"

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
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my ($main, $auth) = map { Keepalive::Backend->start } 1, 2;
my ($port, $pages) = map { free_port() } 1 .. 2;

open my $page, '>', work_dir() . '/page' or die $!;
print $page '<!--# include virtual="/part" -->', 'x' x 200000, 'END';
close $page;

# Subrequests are logged as well, when they end.
my $nginx = queue_nginx($port, {
    authority => 'server ' . $auth->address . ' max_conns=4; keepalive 4; queue 2000 timeout=60s;',
    little => 'server ' . $auth->address . ' max_conns=1; keepalive 1; queue 1 timeout=300ms;',
    same   => 'server ' . $main->address . ' max_conns=1; keepalive 1; queue 100 timeout=20s;',
    pages  => "server 127.0.0.1:$pages max_conns=1; keepalive 1; queue 10 timeout=500ms;",
    plain  => 'server ' . $main->address . '; keepalive 64;',
}, connections => 10000, main => 'worker_rlimit_nofile 10000;', http => <<"END", locations => <<'END')->start;
log_subrequest on;
server {
    listen 127.0.0.1:$pages;
    output_buffers 1 8k;
    location /page { alias @{[ work_dir() ]}/page; }
    location /part { return 200 included; }
}
END
    location /authorised {
        auth_request /allow;
        auth_request_set $queue_time $upstream_queue_time;
        add_header X-Queue-Time $queue_time;
        proxy_pass http://plain;
    }
    location /allow {
        internal;
        proxy_pass http://authority/?status=204&delay=20;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
    location /unlucky { auth_request /little; proxy_pass http://plain; }
    location /both { auth_request /same; proxy_pass http://same; }
    location /mirrored { mirror /same; proxy_pass http://same; }
    location /page { ssi on; ssi_types *; proxy_buffering off; proxy_buffer_size 4k; proxy_pass http://pages; }
    location /buffered_page { ssi on; ssi_types *; proxy_pass http://pages/page; }
    location /part { proxy_pass http://pages; }
END

# A thousand at once.
{
    is get($port, '/authorised')->{status}, 200, 'one request is authorised';
    ok wait_for { $auth->stats->{open} == 1 }, 'and leaves one connection to the authorisation server';
    afresh($port, $main, $auth);
    my $descriptors = $nginx->descriptors;

    my $begun = time;
    my @requests = map { begin($port, "/authorised?n=$_", timeout => 60) } 1 .. 1000;
    my @answers = map { $_->finish } @requests;
    my $took = time - $begun;
    is statuses(@answers), '200 x 1000', 'a thousand at once: all are answered';
    cmp_ok $took, '>', 4.9, 'in no less than the authorisation server needs for them';
    my $stats = $auth->stats;
    is $stats->{requests}, 1000, 'each was authorised once';
    is $stats->{accepted}, 4, 'over exactly four connections';
    is $stats->{max_open}, 4, 'all of them open at a time';
    is $main->stats->{requests}, 1000, 'and each was served once';

    # In order: four are under way at a time, so an answer may pass its neighbours, but not more.
    my @order = map { $_->{status} == 204 && $_->{uri} =~ /n=(\d+)/ ? $1 : () } log_of($nginx, '/authorised?n=');
    is @order, 1000, 'the subrequests are in the log';
    my $furthest = 0;
    for my $place (0 .. $#order) {
        my $moved = abs $order[$place] - 1 - $place;
        $furthest = $moved if $moved > $furthest;
    }
    cmp_ok $furthest, '<=', 12, 'the queue kept their order';
    my @waits = map { $_->{headers}{'x-queue-time'} } @answers;
    cmp_ok $waits[-1], '>', 3, "the last one waited ($waits[-1] s)";
    cmp_ok $waits[0], '<', 0.5, "the first one did not ($waits[0] s)";

    $_->drop for $main, $auth;
    ok wait_for { !$auth->stats->{open} && !$main->stats->{open} }, 'the servers close the idle connections';
    ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left' or diag $nginx->descriptors . " instead of $descriptors";
}

# A subrequest that fails in the queue: auth_request knows 2xx, 401 and 403, and makes 500 of all others.
{
    afresh($port, $auth);
    my $held = begin($port, '/little?fault=hang&at=start');
    ok wait_for { $auth->stats->{requests} == 1 }, 'one request holds the authorisation server';
    my $waits = begin($port, '/unlucky');
    settle($port);
    is get($port, '/unlucky')->{status}, 500, 'authorisation with a full queue';
    is $waits->finish->{status}, 500, 'authorisation that timed out in the queue';
    $held->abort;
    is get($port, '/unlucky')->{status}, 200, 'authorisation with the server free again';
}

# The same server for the subrequest and for the main request: one after the other, so that no deadlock is possible.
for my $location ('/both', '/mirrored') {
    afresh($port, $main);
    my $begun = time;
    my @requests = map { begin($port, "$location?n=$_") } 1 .. 20;
    is statuses(@requests), '200 x 20', "$location: twenty at once, over one connection";
    ok wait_for { $main->stats->{requests} == 40 }, "$location: twice twenty requests";
    cmp_ok time - $begun, '<', 5, "$location: without waiting for a timeout";
    is $main->stats->{max_open}, 1, "$location: never more than one connection";
}

# A client that leaves takes its waiting subrequest along.
{
    afresh($port, $main);
    my $held = begin($port, '/same?fault=hang&at=start');
    ok wait_for { $main->stats->{requests} == 1 }, 'one request holds the server';
    my @waiting = map { begin($port, "/both?left=$_") } 1 .. 10;
    settle($port);
    $_->abort for @waiting;
    ok wait_for { 10 == grep { $_->{status} == 499 } log_of($nginx, '/both?left=') }, 'ten clients leave';
    $held->abort;
    is get($port, '/both')->{status}, 200, 'the next one is authorised and served';
    is $main->stats->{requests}, 3, 'the server never hears of those who left';
}

# A page that holds the only connection while it waits for its own include: only the timeout of the queue ends that.
{
    my $begun = time;
    my $answer = get($port, '/page');
    my $took = time - $begun;
    is $answer->{status}, 200, 'an unbuffered page with an include from the same server is answered';
    like $answer->{body}, qr/xEND\z/, 'to its end';
    unlike $answer->{body}, qr/included/, 'without the include';
    cmp_ok $took, '>', 0.45, 'the include waited for the page';
    cmp_ok $took, '<', 3, 'until its timeout';

    $begun = time;
    $answer = get($port, '/buffered_page');
    like $answer->{body}, qr/\Aincludedx+END\z/, 'a buffered page leaves its connection to the include';
    cmp_ok time - $begun, '<', 0.45, 'so that nothing waits for long';
}

$nginx->stop;
done_testing;
