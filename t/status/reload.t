# The counters of keepalive_status across reloads, killed workers, a binary upgrade and servers that come and go, with one worker
# and with four: counts are kept, and servers that no longer exist are not shown.
#
# faults: F14.5 "a reload ends them" "all agrees after a worker was killed" "upgrade: they count"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Queue qw(established);
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

# The servers: of upstream `one`, three of `pair`, of `queued`, and of those that come and go with the configuration.
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 7]);
my ($one, $first, $second, $third, $queued, $old, $new) = map { 'server ' . $backend->address($_) } 0 .. 6;
my $pool = 'keepalive 16; keepalive_timeout 10m;';

my ($port, $nginx, $status);

sub http {
    my ($pair, $more) = @_;
    my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } $more =~ /upstream (\w+)/g;
    return <<"END";
$proxy_keepalive
# What is handed over at a reload: t/handover/reload.t.
keepalive_handover off;
upstream one { zone one 128k; $one; $pool }
upstream pair { zone pair 128k; $pair $pool }
upstream queued { zone queued 128k; $queued max_conns=1; queue 4 timeout=20s; $pool }
$more
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = /ask { internal; proxy_pass http://one/; }
    location /one { proxy_pass http://one; }
    location /pair { proxy_pass http://pair; }
    location /queued { proxy_pass http://queued; }
    location /authorised { auth_subrequest /ask; proxy_pass http://one; }
    $locations
}
END
}

# So many requests at once, each over a connection of its own unless there are idle ones.
sub ask { my ($name, $number) = @_; $_->finish for map { begin($port, "/$name?delay=200") } 1 .. $number }

# A request that is under way at this listener of the server.
sub hold {
    my ($path, $listener) = @_;
    my $before = $backend->requests($listener);
    my $request = begin($port, $path);
    ok wait_for { $backend->requests($listener) == $before + 1 }, 'a request is under way';
    return $request;
}

# How many connections of upstream `one` are idle, once none is active.
sub idle {
    my $one;
    wait_for { $one = $status->json->{upstreams}{one}; $one->{active} == 0 };
    return $one->{keepalive};
}

# Tests that the numbers of an upstream, or of one server of it, are those of the server itself, and that connections have
# ended like this. So many are active.
sub agree {
    my ($name, $listener, $ends, $title, $server, $active) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($numbers, $expected);
    wait_for {
        my $stats = $backend->stats($listener);
        my %of = (opened => $stats->{accepted}, reused => $stats->{requests} - $stats->{accepted},
            idle => $stats->{open} - ($active // 0), active => $active);
        $expected = join ', ', (map { $of{$_} ? "$_ $of{$_}" : () } qw(opened reused idle active)), $ends || ();
        ($numbers = $status->numbers($name, $server)) eq $expected;
    };
    return is $numbers, $expected, $title;
}

sub ok_gone { my ($title, @old) = @_; ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, "$title: the old workers are gone" }

sub ok_workers { my ($number, $title) = @_; ok wait_for { $status->json->{workers} == $number }, "$title: workers: $number" or diag $status->json->{workers} }

# Reloads, and returns the old workers as soon as they take no more clients.
sub reload {
    my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::command_line($_) =~ /worker process(?! is shutting down)/ } @old }, 'the old ones are to go';
    return @old;
}

# Reloads with another configuration.
sub reload_with {
    my ($title, $http, %changes) = @_;
    $nginx->configure(http => $http, %changes);
    ok_gone($title, reload());
}

my $both = "$first; $second;";
for my $workers (1, 4) {
    my $title = "workers: $workers";
    $backend->reset;
    $port = free_port();
    $nginx = Keepalive::Nginx->new(workers => $workers, http => http($both, "upstream old { $old; $pool }"))->start;
    $status = Keepalive::Status->new($port);

    # A reload while four are idle.
    ask('one', 4);
    $status->expect('one', 'opened 4, idle 4', "$title: four are idle");
    agree('one', 0, '', "$title: as the server says");
    ok_gone($title, reload());
    agree('one', 0, 'closed exiting 4', "$title: a reload ends them");
    is $status->numbers('one'), 'opened 4, closed exiting 4', "$title: and nothing is idle";
    ask('one', 3);
    agree('one', 0, 'closed exiting 4', "$title: it goes on");
    $status->consistent("$title: all agrees");

    # Old workers that are at it still.
    ask('one', 4);
    my $idle = idle();
    cmp_ok $idle, '>=', 4, "$title: at least four are idle";
    my $slow = hold('/one?delay=2500', 0);
    my @old_workers = reload();
    my $exiting = 4 + $idle - 1;
    agree('one', 0, "closed exiting $exiting", "$title: one of an old worker is active", undef, 1);
    ok_workers($workers + 1, "$title: it is told");
    my $slower = hold('/one?delay=2500', 0);
    agree('one', 0, "closed exiting $exiting", "$title: and one of a new worker", undef, 2);
    push @old_workers, reload();
    agree('one', 0, "closed exiting $exiting", "$title: two generations of old workers are at it", undef, 2);
    ok_workers($workers + 2, "$title: they are told");
    ask('one', 1);
    agree('one', 0, "closed exiting $exiting", "$title: with one more of the newest", undef, 2);
    is $_->finish->{status}, 200, "$title: answered" for $slow, $slower;
    ok_gone($title, @old_workers);
    ok_workers($workers, "$title: only the new ones are left");
    $exiting += 2;
    agree('one', 0, "closed exiting $exiting", "$title: what they have finished is counted");
    $idle = idle();
    my @two = map { reload() } 1, 2;
    ok_gone("$title, two reloads", @two);
    $exiting += $idle;
    agree('one', 0, "closed exiting $exiting", "$title: nothing is lost by two reloads");
    $status->consistent("$title: all agrees after two reloads");

    # Reloads under load: nothing is lost.
    my $load = Keepalive::Load->start($port, clients => 4, request => sub { $_[0] % 3 ? '/one' : '/one?delay=5' });
    for (1 .. 3) {
        $load->wait_for_more(30);
        ok_gone("$title, load", reload());
    }
    my ($answers, @failures) = $load->stop;
    is "@failures", '', "$title, load: $answers requests, none has failed";
    idle();
    my ($accepted, $open) = @{ $backend->stats(0) }{qw(accepted open)};
    agree('one', 0, 'closed exiting ' . ($accepted - $open), "$title, load: all are counted");

    # Queues and decisions go on as well.
    is get($port, '/authorised')->{status}, 200, "$title: one decision";
    my $held = hold('/queued?delay=1500', 4);
    my @wait = map { begin($port, '/queued') } 1 .. 2;
    my $told = sub {
        my $queue = $status->json->{upstreams}{queued}{queue};
        return "size $queue->{size}, requests $queue->{requests}, over $queue->{wait}{count}";
    };
    ok wait_for { $told->() eq 'size 2, requests 2, over 0' }, "$title: two wait" or diag $told->();
    my @waited_on = reload();
    is $told->(), 'size 2, requests 2, over 0', "$title: they wait in old workers";
    is join(' ', map { $_->finish->{status} } $held, @wait), '200 200 200', "$title: and are served";
    ok_gone($title, @waited_on);
    is $told->(), 'size 0, requests 2, over 2', "$title: which is counted";
    is get($port, '/authorised')->{status}, 200, "$title: another decision";
    ok wait_for { $status->json->{auth}{'/ask'}{allowed} == 2 }, "$title: makes two";
    $idle = idle();
    ($accepted, $open) = @{ $backend->stats(0) }{qw(accepted open)};
    $exiting = $accepted - $open;
    agree('one', 0, "closed exiting $exiting", "$title: all have ended by reloads");

    # Servers, upstreams and workers that come and go.
    ask('pair', 4);
    agree('pair', 1, '', "$title, pair: the first server", $backend->address(1));
    agree('pair', 2, '', "$title, pair: the second one", $backend->address(2));
    ask('old', 3);
    $status->expect('old', 'opened 3, idle 3', "$title, old: it is used");
    my $changed = $workers == 1 ? 3 : 2;
    reload_with($title, http("$first; $third;", "upstream new { $new; $pool }"), workers => $changed);
    ok_workers($changed, "$title: other workers");
    is_deeply [sort keys %{ $status->json->{upstreams} }], [qw(new one pair queued)], "$title: an upstream has gone, another one has come";
    is $status->numbers('new'), '', "$title: which has done nothing yet";
    my ($at_first, $at_second) = map { $backend->stats($_)->{accepted} } 1, 2;
    agree('pair', 1, "closed exiting $at_first", "$title, pair: the first server stays", $backend->address(1));
    agree('pair', 2, "closed exiting $at_second", "$title, pair: the second one is one of those that are gone", 'gone');
    is $status->numbers('pair', $backend->address(3)), '', "$title, pair: the third one begins";
    is $status->numbers('pair', $backend->address(2)), 'nothing', "$title, pair: the second one has gone";
    ask('pair', 4);
    ask('new', 2);
    agree('pair', 3, '', "$title, pair: the third one is asked", $backend->address(3));
    cmp_ok $backend->stats(3)->{accepted}, '>', 0, "$title, pair: indeed";
    agree('new', 6, '', "$title, new: it is used");
    $status->consistent("$title: all agrees after other servers have come");
    reload_with($title, http("$first; $third;", "upstream new { $new; $pool }"));
    reload_with($title, http($both, "upstream old { $old; $pool }"), workers => $workers);
    is $status->numbers('old'), '', "$title, old: has come back, and begins";
    is $status->numbers('pair', $backend->address(2)), '', "$title, pair: so does the second server";
    my $gone = $at_second + $backend->stats(3)->{accepted};
    my $reused = $backend->stats(3)->{requests} - $backend->stats(3)->{accepted};
    is $status->numbers('pair', 'gone'), join(', ', "opened $gone", $reused ? "reused $reused" : (), "closed exiting $gone"),
        "$title, pair: two servers are gone";
    $status->consistent("$title: all agrees after they have come back");

    # A configuration that is refused.
    ask('one', 2);
    idle();
    my $before = $status->numbers('one');
    $nginx->allow(qr/unknown directive "nonsense"/);
    $nginx->configure(http => http($both, 'nonsense;'));
    $nginx->signal('HUP');
    ok wait_for { $nginx->error_log =~ /unknown directive "nonsense"/ }, "$title: a configuration is refused";
    is $status->numbers('one'), $before, "$title: which changes nothing";
    my $served = $status->json->{upstreams}{one}{requests};
    is get($port, '/one')->{status}, 200, "$title: one more request";
    ok wait_for { $status->json->{upstreams}{one}{requests} == $served + 1 }, "$title: is counted";
    $nginx->configure(http => http($both, "upstream old { $old; $pool }"));

    # Workers are killed that have idle connections and requests: first the one that has most, then all. What they have counted
    # stays, and what they held has ended.
    $nginx->allow(qr/exited on signal 9/);
    reload_with($title, http($both, "upstream old { $old; $pool }"));
    my $ended = $backend->stats(0)->{accepted};
    ask('one', 3);
    my @hung = map { hold('/one?fault=hang&at=start', 0) } 1 .. 2;
    my ($opened, $requests) = @{ $backend->stats(0) }{qw(accepted requests)};
    my $counted = "opened $opened, reused " . ($requests - $opened);
    my $idle_now = $opened - $ended - 2;
    $status->expect('one', "$counted, idle $idle_now, active 2, closed exiting $ended", "$title: two requests are under way");
    my %holds = map { $_ => established($backend->port(0), $_) } $nginx->workers;
    my ($most) = sort { $holds{$b} <=> $holds{$a} } keys %holds;
    for my $round ([$most], [grep { $_ != $most } keys %holds]) {
        kill KILL => @$round;
        ok wait_for { $workers == grep { my $pid = $_; !grep { $pid == $_ } @$round } $nginx->workers }, "$title: new workers are there";
        $ended += $holds{$_} for @$round;
        my $one = $status->json->{upstreams}{one};
        is $one->{keepalive} + $one->{active}, $opened - $ended, "$title: what the living hold";
        is "opened $one->{opened}, reused $one->{reused}, closed exiting $one->{closed}{exiting}",
            "$counted, closed exiting $ended", "$title: what all have counted";
        $status->consistent("$title: all agrees after a worker was killed");
    }
    $_->abort for @hung;
    is $status->numbers('one'), "$counted, closed exiting $opened", "$title: nobody holds anything any more";
    ok_workers($workers, "$title: those who are alive");
    my $told_now = sub {
        my ($more, $now) = @_;
        my $all = $opened + $more;
        my $closed = $all - ($now =~ /(\d)/ ? $1 : 0);
        return join ', ', "opened $all", 'reused ' . ($requests - $opened), $now || (), "closed exiting $closed";
    };
    ask('one', 2);
    $status->expect('one', $told_now->(2, 'idle 2'), "$title: the new ones count on");
    ok_gone($title, reload());
    $status->expect('one', $told_now->(2, ''), "$title: over a reload too");

    # One of an old configuration.
    my $late = hold('/one?fault=hang&at=start', 0);
    my @late = reload();
    $status->expect('one', $told_now->(3, 'active 1'), "$title: an old worker has a request");
    kill KILL => grep { Keepalive::Nginx::is_alive($_) } @late;
    ok_gone($title, @late);
    $status->expect('one', $told_now->(3, ''), "$title: which ends with it");
    $late->abort;
    ok_workers($workers, "$title: the old one is not told");
    ok_gone($title, reload());
    $status->expect('one', $told_now->(3, ''), "$title: a reload changes nothing");
    $status->consistent("$title: all agrees at the end");

    # Another binary begins anew, beside this one.
    my $master = $nginx->pid;
    $nginx->signal('USR2');
    ok wait_for { ($nginx->pid('.oldbin') // 0) == $master && ($nginx->pid // $master) != $master }, "$title, upgrade: a new master";
    my $successor = $nginx->pid;
    ok wait_for { $nginx->workers($successor) == $workers }, "$title, upgrade: its workers";
    is get($port, '/one')->{status}, 200, "$title, upgrade: a request" for 1 .. 4;
    is ref $status->json->{upstreams}{one}, 'HASH', "$title, upgrade: the numbers of one of them" for 1 .. 4;
    $nginx->signal('QUIT', $master);
    ok wait_for { !Keepalive::Nginx::is_alive($master) }, "$title, upgrade: the old master is gone";
    $status = Keepalive::Status->new($port);
    ok_workers($workers, "$title, upgrade: those of the new one");
    my $anew = $status->json->{upstreams}{one}{requests};
    ask('one', 3);
    ok wait_for { $status->json->{upstreams}{one}{requests} == $anew + 3 }, "$title, upgrade: they count";
    $status->consistent("$title, upgrade: all agrees");
    $nginx->stop;
}

# Without a master.
{
    $backend->reset;
    $port = free_port();
    my $config = http($both, "upstream old { $old; $pool }");
    $nginx = Keepalive::Nginx->new(main => 'master_process off;', http => $config);
    $nginx->{workers} = 0;
    $nginx->start;
    $status = Keepalive::Status->new($port);
    ask('one', 3);
    agree('one', 0, '', 'no master: the numbers are told');
    is $status->json->{workers}, 1, 'no master: one process';
    $status->consistent('no master: all agrees');
    $nginx->stop;
}

# Servers that leave and come by their name.
SKIP: {
    skip 'nginx has no resolve in upstreams before 1.27.3', 1 unless version_at_least('1.27.3');
    my $names = Keepalive::Names->start('127.0.0.1', '127.0.0.2');
    my $common = free_port();
    my @servers = map { Keepalive::Backend->start(listen => ["127.0.0.$_:$common"]) } 1 .. 3;
    for my $workers (1, 4) {
        my $title = "resolve, workers: $workers";
        $names->now_at('127.0.0.1', '127.0.0.2');
        $_->reset for @servers;
        $port = free_port();
        $nginx = Keepalive::Nginx->new(workers => $workers, http => <<"END")->start;
resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;
keepalive_handover off;
$proxy_keepalive
upstream u {
    zone u 128k;
    server servers.test:$common resolve max_conns=90;
    server 127.0.0.9:$common backup;
    server other.test:1 resolve down;
    server other.test:2 resolve down;
    $pool
}
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location / { proxy_pass http://u; proxy_next_upstream_tries 1; }
}
END
        $status = Keepalive::Status->new($port);
        # What a server has counted itself, and how its connections have ended.
        my $agrees = sub {
            my ($number, $ends, $what) = @_;
            my ($numbers, $expected);
            wait_for {
                my $stats = $servers[$number - 1]->stats;
                my %of = (opened => $stats->{accepted}, reused => $stats->{requests} - $stats->{accepted}, idle => $stats->{open});
                $expected = join ', ', (map { $of{$_} ? "$_ $of{$_}" : () } qw(opened reused idle)), $ends->($stats);
                ($numbers = $status->numbers('u', "127.0.0.$number:$common")) eq $expected;
            };
            is $numbers, $expected, "$title: $what";
        };
        my $none = sub { () };
        my $all = sub { my ($reason) = @_; return sub { "closed $reason $_[0]{accepted}" } };
        ok wait_for { get($port, '/')->{status} == 200 }, "$title: the name is resolved";
        $_->finish for map { begin($port, '/?delay=100') } 1 .. 8;
        $agrees->($_, $none, "server $_ has been asked") for 1, 2;
        # What stands for a name before it is resolved is no server.
        my @peers = map { join ' ', @$_{qw(server name max_conns)}, map { $_ ? 'yes' : 'no' } @$_{qw(backup down)} }
            @{ $status->json->{upstreams}{u}{peers} };
        is_deeply \@peers, [
            "127.0.0.9:$common 127.0.0.9:$common 0 yes no",
            map { "127.0.0.$_:$common servers.test:$common 90 no no" } 1, 2
        ], "$title: each server is there once, as the configuration has it";
        # One that is asked while its server leaves.
        my @slow = map { begin($port, '/?delay=2500') } 1, 2;
        ok wait_for { $status->json->{upstreams}{u}{active} == 2 }, "$title: two requests are under way";
        $names->now_at('127.0.0.2', '127.0.0.3');
        $_->finish for @slow;
        $agrees->(1, $all->('removed'), 'its connections are closed when the first one leaves');
        $agrees->(2, $none, 'those to the second one stay');
        $_->finish for map { begin($port, '/?delay=100') } 1 .. 8;
        $agrees->(3, $none, 'the third one is asked');
        $status->consistent("$title: all agrees");
        ok_gone($title, reload());
        $agrees->(1, $all->('removed'), 'the first one is told after a reload too');
        $agrees->($_, $all->('exiting'), "so is server $_") for 2, 3;
        $status->consistent("$title: all agrees after a reload");
        $nginx->stop;
    }
}

done_testing;
