# The counters of keepalive_status for waiting requests and for authorisation, with one worker and with four.
#
# about: status

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue qw(queue_nginx connections_to settle statuses);
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my @names = qw(queued timed refused parked shared app auth);
my %listener = map { $names[$_] => $_ } 0 .. $#names;
# A unix socket refuses at once, and not by an event.
my $backend = Keepalive::Backend->start(listen => [map { $_ eq 'refused' ? 'unix:' . work_dir() . '/refused' : '127.0.0.1:0' } @names]);
my %server = map { $_ => 'server ' . $backend->address($listener{$_}) } @names;
my %upstreams = (
    queued => "zone queued 128k; $server{queued} max_conns=1; keepalive 4; queue 3 timeout=20s;",
    timed  => "zone timed 128k; $server{timed} max_conns=1; keepalive 4; queue 10 timeout=200ms;",
    refused => "$server{refused} max_conns=1 max_fails=0; keepalive 4; queue 3 timeout=20s;",
    parked => "$server{parked} max_conns=1; keepalive 4; keepalive_drain 64k timeout=5s;",
    shared => "zone shared 128k; $server{shared} max_conns=1; keepalive 4;",
    app    => "$server{app}; keepalive 64;",
    auth   => "$server{auth}; keepalive 64;",
);
my $locations = <<'END';
location = /status { access_log off; keepalive_status; }
location = /instead { internal; return 204; }
location = /accel { proxy_pass http://parked/?header=X-Accel-Redirect:/instead&$args; }
location = /ask { internal; proxy_pass http://auth/?$http_x_auth; }
location = /ask_other { internal; proxy_pass http://auth/?$http_x_auth; }
location /asks { auth_subrequest /ask; proxy_pass http://app; }
location /brief { auth_subrequest /ask; auth_subrequest_timeout 100ms; proxy_pass http://app; }
location /open { auth_subrequest /ask; auth_subrequest_timeout 100ms; auth_subrequest_error allow; proxy_pass http://app; }
location /other { auth_subrequest /ask_other; proxy_pass http://app; }
location /redirected { auth_subrequest /ask; proxy_intercept_errors on; error_page 404 = /asks; proxy_pass http://app/?status=404; }
END

my ($port, $nginx, $status);

sub queue_of { return $status->json->{upstreams}{ $_[0] }{queue} }

# Size, requests, overflows and timeouts of a queue, and how many waits are over.
sub told {
    my ($name) = @_;
    my $queue = queue_of($name);
    return "size $queue->{size}, requests $queue->{requests}, overflows $queue->{overflows}, timeouts $queue->{timeouts}, "
        . "over $queue->{wait}{count}";
}

sub expect_queue {
    my ($name, $expected, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $told;
    wait_for { ($told = told($name)) eq $expected };
    is $told, $expected, $title;
}

# Decisions by what they were, and how many were timed.
sub expect_auth {
    my ($uri, $expected, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $told = '';
    wait_for {
        my $auth = $status->json->{auth}{$uri};
        $told = join ', ', map { $auth->{$_} ? "$_ $auth->{$_}" : () } qw(allowed denied failed timed_out failed_open);
        $told .= ", timed $auth->{time}{count}";
        $told eq $expected;
    };
    is $told, $expected, $title;
}

# Whether a time in seconds is between two others, a bit more or less: nginx reads the clock once for each round of events.
sub between {
    my ($got, $least, $most, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok $got >= $least - 0.05 && $got <= $most + 0.05, $title or diag "$got, not $least to $most";
}

for my $workers (1, 4) {
    my $title = "workers: $workers";
    $backend->reset;
    $port = free_port();
    $nginx = queue_nginx($port, \%upstreams, workers => $workers, listen => 'reuseport', locations => $locations)->start;
    $status = Keepalive::Status->new($port);
    my @pids = $nginx->workers;
    # Two workers, or the same twice.
    my @here = connections_to($port, $pids[0], 20);
    my @there = connections_to($port, $pids[-1], 8);
    my $start = sub { my ($from, $path) = @_; return begin($port, $path, over => shift @$from) };

    # Waiting requests, in one worker and in another one.
    expect_queue('queued', 'size 0, requests 0, overflows 0, timeouts 0, over 0', "$title: nobody has waited");
    is queue_of('queued')->{max_size}, 3, "$title: so many may wait in each worker";
    my $held = $start->(\@here, '/queued?fault=hang&at=start');
    $status->expect('queued', 'opened 1, active 1', "$title: one holds the server, and has not waited");
    my $begun = time;
    my @waiting = map { $start->(\@here, '/queued?len=1') } 1, 2;
    expect_queue('queued', 'size 2, requests 2, overflows 0, timeouts 0, over 0', "$title: two wait");
    push @waiting, $start->($workers > 1 ? \@there : \@here, '/queued?len=1');
    expect_queue('queued', 'size 3, requests 3, overflows 0, timeouts 0, over 0', "$title: three wait, one of them elsewhere");
    push @waiting, $start->(\@here, '/queued?len=1') if $workers > 1;
    my $number = @waiting;
    expect_queue('queued', "size $number, requests $number, overflows 0, timeouts 0, over 0", "$title: it is full");
    my $all_wait = time;
    is statuses(map { $start->(\@here, '/queued') } 1, 2), '502 x 2', "$title: two find it full";
    expect_queue('queued', "size $number, requests $number, overflows 2, timeouts 0, over 0", "$title: which is counted");
    sleep 0.3;
    my $ended = time;
    $held->abort;
    is statuses(@waiting), "200 x $number", "$title: those who wait are served";
    my $over = time;
    expect_queue('queued', "size 0, requests $number, overflows 2, timeouts 0, over $number", "$title: nobody waits any more");
    between(queue_of('queued')->{wait}{sum}, $number * ($ended - $all_wait), $number * ($over - $begun), "$title: the time they have waited");

    # One that leaves has waited, too.
    my $again = $start->(\@there, '/queued?fault=hang&at=start');
    ok wait_for { $backend->requests(0) == $number + 2 }, "$title: the server is held again";
    my ($requests, $before) = @{ queue_of('queued') }{qw(requests wait)};
    $begun = time;
    my $leaves = $start->(\@there, '/queued');
    my $all = $requests + 1;
    expect_queue('queued', "size 1, requests $all, overflows 2, timeouts 0, over $requests", "$title: one waits");
    my $waits = time;
    sleep 0.1;
    $ended = time;
    $leaves->abort;
    expect_queue('queued', "size 0, requests $all, overflows 2, timeouts 0, over $all", "$title: one leaves");
    between(queue_of('queued')->{wait}{sum} - $before->{sum}, $ended - $waits, time - $begun, "$title: the time it has waited");
    $again->abort;
    is get($port, '/queued')->{status}, 200, "$title: the server is free again";

    # What the server has counted.
    $status->consistent("$title: all agrees");
    my ($stats, $numbers) = ($backend->stats($listener{queued}), $status->json->{upstreams}{queued});
    is "opened $numbers->{opened}, requests $numbers->{requests}, idle $numbers->{keepalive}",
        "opened $stats->{accepted}, requests $stats->{requests}, idle $stats->{open}", "$title: the server has counted as many";
    is $stats->{requests}, $number + 3, "$title: all but those who found it full, and the one who left";
    is $stats->{max_open}, 1, "$title: never more than one at a time";

    # Requests that wait for too long.
    $held = $start->(\@here, '/timed?fault=hang&at=start');
    ok wait_for { $backend->requests($listener{timed}) == 1 }, "$title: one holds the other server";
    $begun = time;
    is statuses(map { $start->($_, '/timed') } \@here, \@there), '502 x 2', "$title: two wait for too long";
    my $took = time - $begun;
    expect_queue('timed', 'size 0, requests 2, overflows 0, timeouts 2, over 2', "$title: which is counted");
    between(queue_of('timed')->{wait}{sum}, 0.4, 2 * $took, "$title: the time they have waited");
    my $buckets = queue_of('timed')->{wait}{buckets};
    is $buckets->{0.1}, 0, "$title: none for less than the timeout";
    $held->abort;
    $status->expect('timed', 'opened 1, not_stored body_unread 1', "$title: one connection, for the one that held it");

    # One that waits, and whose server refuses it then.
    $held = $start->(\@here, '/refused?fault=hang&at=start');
    ok wait_for { $backend->requests($listener{refused}) == 1 }, "$title: one holds a third server";
    my $in_vain = $start->(\@here, '/refused');
    expect_queue('refused', 'size 1, requests 1, overflows 0, timeouts 0, over 0', "$title: one waits for it");
    $backend->refuse(500, $listener{refused});
    $held->abort;
    is $in_vain->finish->{status}, 502, "$title: it is refused";
    expect_queue('refused', 'size 0, requests 1, overflows 0, timeouts 0, over 1', "$title: and does not wait any more");
    $status->expect('refused', 'opened 2, not_stored body_unread 1, not_stored connect 1', "$title: two connections have ended");

    # Requests that wait for a connection that is being drained: a client that leaves, and one that stays.
    is $start->(\@here, '/accel?len=1000&drip=60')->finish->{status}, 204, "$title: a connection is drained";
    $status->expect('parked', 'opened 1, draining 1', "$title: as the numbers say");
    my $one = $start->(\@here, '/parked');
    settle($port, splice @here, 0, 2);
    $one->abort;
    settle($port, splice @here, 0, 2);
    is $start->(\@here, '/parked')->finish->{status}, 200, "$title: one leaves, another one is served";
    $status->expect('parked', 'opened 1, reused 1, idle 1', "$title: over the same connection");

    # A connection that another worker has idle comes to this worker.
    is $start->($_, '/shared')->finish->{status}, 200, "$title: one worker after the other" for \@here, \@there, \@here;
    $status->expect('shared', $workers == 1 ? 'opened 1, reused 2, idle 1' : 'opened 1, reused 2, given 2, taken 2, idle 1',
        "$title: they have one connection in all");
    is $backend->stats($listener{shared})->{max_open}, 1, "$title: indeed";

    # Decisions.
    my $ask = sub {
        my ($path, $script, @more) = @_;
        return get($port, $path, headers => { 'X-Auth' => $script }, @more)->{status};
    };
    expect_auth('/ask', ', timed 0', "$title: nothing is decided");
    is $ask->('/asks', 'status=204'), 200, "$title: allowed" for 1 .. 3;
    expect_auth('/ask', 'allowed 3, timed 3', "$title: three times");
    is $ask->('/asks', "status=$_"), $_, "$title: denied, $_" for 401, 403;
    expect_auth('/ask', 'allowed 3, denied 2, timed 5', "$title: twice");
    is $ask->('/asks', "status=$_"), 500, "$title: failed, $_" for 500, 404;
    is $ask->('/asks', 'fault=close&at=start'), 500, "$title: failed, no answer";
    expect_auth('/ask', 'allowed 3, denied 2, failed 3, timed 8', "$title: three times");
    is $ask->('/brief', 'fault=hang&at=start'), 500, "$title: no answer in time";
    expect_auth('/ask', 'allowed 3, denied 2, failed 3, timed_out 1, timed 9', "$title: once");
    is $ask->('/open', $_), 200, "$title: failed open, $_" for 'status=500', 'fault=hang&at=start';
    expect_auth('/ask', 'allowed 3, denied 2, failed 3, timed_out 1, failed_open 2, timed 11', "$title: twice");
    is $ask->('/open', 'status=403'), 403, "$title: a denial is one there too";
    is $ask->('/redirected', 'status=204'), 200, "$title: redirected";
    expect_auth('/ask', 'allowed 4, denied 3, failed 3, timed_out 1, failed_open 2, timed 13', "$title: which is one decision");
    $begun = time;
    $before = $status->json->{auth}{'/ask'}{time};
    is $ask->('/asks', 'status=204&delay=600'), 200, "$title: a slow decision";
    $took = time - $begun;
    expect_auth('/ask', 'allowed 5, denied 3, failed 3, timed_out 1, failed_open 2, timed 14', "$title: is one more");
    my $after = $status->json->{auth}{'/ask'}{time};
    between($after->{sum} - $before->{sum}, 0.6, $took, "$title: and took its time");
    my @in = map { $after->{buckets}{$_} - $before->{buckets}{$_} } '0.5', '1';
    is "@in", '0 1', "$title: which is in its bucket";
    $leaves = begin($port, '/asks', headers => { 'X-Auth' => 'fault=hang&at=start' });
    ok wait_for { $status->json->{upstreams}{auth}{active} == 1 }, "$title: a question is under way";
    $leaves->abort;
    ok wait_for { $status->json->{upstreams}{auth}{active} == 0 }, "$title: its client leaves";
    expect_auth('/ask', 'allowed 5, denied 3, failed 3, timed_out 1, failed_open 2, timed 14', "$title: nothing is decided");
    expect_auth('/ask_other', ', timed 0', "$title: nothing by another location");
    is $ask->('/other', 'status=204'), 200, "$title: the other one";
    expect_auth('/ask_other', 'allowed 1, timed 1', "$title: has numbers of its own");

    $status->consistent("$title: all agrees at the end");
    my $of_auth = $backend->stats($listener{auth});
    $numbers = $status->json->{upstreams}{auth};
    is "opened $numbers->{opened}, requests $numbers->{requests}, idle $numbers->{keepalive}",
        "opened $of_auth->{accepted}, requests $of_auth->{requests}, idle $of_auth->{open}", "$title: the server was asked as often";
    $nginx->stop;
}

done_testing;
