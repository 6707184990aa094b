# keepalive_hint learn: what the pool learns from the closes of a server, who shares it, what changes it, and what teaches nothing.
#
# faults: F1.2 "a limit: the server closes hardly any" "a number of requests: no POST meets it"
# faults: F1.3 "a limit: no request meets a stale connection"
# faults: F11.6 "two workers: the other one knows it" "after a reload" "seconds after a restart" "a restart teaches nothing"
# faults: F11.6 "any time: hardly anything is learned" "room for one connection" "an announced limit: connections are kept nearly as long"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Lessons;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $port = free_port();
# A server of its own for each part of the test, by the number of a listener; and pools for it, by what is inside.
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 9]);
my %restarted = map { $_ => Keepalive::Backend->start } qw(changed restart);
my $number = 0;
my %parts = map { my ($name, $pools, $hint, $room) = @$_; ($name => { name => $name, pools => $pools, hint => $hint, room => $room // 4,
    $restarted{$name} ? (backend => $restarted{$name}, listener => 0) : (backend => $backend, listener => $number++) }) } (
    ['limit', 40, 'learn'], ['requests', 1, 'learn'], ['none', 10, 'learn'], ['random', 20, 'learn'], ['announced', 20, 'learn'],
    ['early', 10, 'learn margin=100ms'], ['on', 10, 'on'], ['off', 10, 'off'], ['changed', 20, 'learn'], ['restart', 20, 'learn'],
    ['raised', 20, 'learn', 1],
);
my ($blocks, $locations) = ('', '');
for my $part (map { $parts{$_} } sort keys %parts) {
    $part->{address} = $part->{backend}->address($part->{listener});
    for my $pool (map { "$part->{name}$_" } 1 .. $part->{pools}) {
        $blocks .= "upstream $pool { server $part->{address}; keepalive $part->{room}; keepalive_hint $part->{hint}; }\n";
        $locations .= "location /$pool { proxy_pass http://$pool/; }\n";
    }
}
my $log = work_dir() . '/requests.log';
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
$blocks
$times_format
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    $locations
    access_log $log times;
}
END
my $status = Keepalive::Status->new($port);
my $hold_ups = watch_machine();

sub stats { my ($part) = @_; return $part->{backend}->stats($part->{listener}) }

# One pool of a part after the other.
sub next_path {
    my ($part, $script) = @_;
    return "/$part->{name}" . (1 + $part->{turn}++ % $part->{pools}) . "?$script";
}

# The limits that the log tells of a part's server, one after the other.
sub told { my ($part, $what) = @_; return limits_told($part->{nginx} // $nginx, $part->{address}, $what // 'idle') }

# Whether the log has told this limit last.
sub knows {
    my ($part, $limit) = @_;
    my $told = (told($part))[-1] or return 0;
    return $told > 0.9 * $limit && $told < 1.35 * $limit;
}

# Opens connections, each for the pool whose turn it is, until the log tells the limit, or the server has closed so many: no more
# are opened. Returns how many it has closed.
sub teach {
    my ($part, $limit, $most, $send) = @_;
    $send //= sub { get($port, $_[0]) };
    my $before = stats($part)->{expired};
    my $deadline = time + 15;
    while (time < $deadline && !knows($part, $limit)) {
        my $stats = stats($part);
        my $closed = $stats->{expired} - $before;
        last if $closed >= $most;
        $send->(next_path($part, 'idle=' . 1000 * $limit)) if $closed + $stats->{open} < $most;
        # The server closes the connection of a pool before its turn comes again.
        sleep 1.2 * $limit / $part->{pools} * (0.8 + rand 0.4);
    }
    # nginx may not know of the last one yet.
    for (1 .. 100) {
        last if knows($part, $limit);
        sleep 0.01;
    }
    return stats($part)->{expired} - $before;
}

# Opens some connections at once and waits until all are closed. Returns how many the server has closed, and after which time
# half of them were closed.
sub let_expire {
    my ($part, $connections, $script, $send) = @_;
    $send //= sub { get($port, $_[0]) };
    wait_for { !stats($part)->{open} };
    my $before = stats($part)->{expired};
    my $begun = time;
    $send->(next_path($part, $script)) for 1 .. $connections;
    my $half;
    wait_for {
        my $open = stats($part)->{open};
        $half //= time - $begun if $open <= $connections / 2;
        !$open;
    };
    return (stats($part)->{expired} - $before, $half // 'not at all');
}

# Tests that nginx closes connections, in time and not long before. It leaves some to the server, to see whether it still does.
sub closes_first {
    my ($part, $limit, $title, $send) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($connections, $closed, $half) = (10);
    # Once more if the machine was busy, also before: an age that was measured may have been wrong.
    for (1 .. 5) {
        ($closed, $half) = let_expire($part, $connections, 'idle=' . 1000 * $limit, $send);
        last if $closed <= 2 || !grep { $_->[1] - $_->[0] > 0.02 } $hold_ups->();
    }
    cmp_ok $closed, '<=', 2, "$title: the server closes hardly any";
    cmp_ok $half, '>=', 0.75 * $limit, "$title: but they are kept nearly as long";
}

# One that announces a limit, and keeps exactly to it. This takes longer and runs meanwhile.
my $announced = 'header=Keep-Alive:timeout%3D1&idle=1000';
my $patient = Keepalive::Load->start($port, clients => $parts{announced}{pools}, request => sub {
    my ($number, $client) = @_;
    srand if $number == 1;
    sleep $number > 1 ? 1.15 + rand 0.1 : rand 1;
    return "/announced$client?$announced";
});

# A limit of 300 milliseconds, without a word.
{
    my $part = $parts{limit};
    my $closed = teach($part, 0.3, 10);
    # Once more if the machine was busy: ages that were measured may differ.
    $closed += teach($part, 0.3, 10) if !knows($part, 0.3) && $hold_ups->();
    ok knows($part, 0.3), 'a limit: after ten closes at most, the log tells it' or diag join ' ', told($part);
    diag "a limit: told after $closed closes";
    wait_for { !stats($part)->{open} };

    # Requests come just before and just after this moment.
    my $before = stats($part);
    my @loads = map {
        my ($first, @options) = @$_;
        Keepalive::Load->start($port, clients => 20, requests => 12, request => sub {
            my ($number, $client) = @_;
            srand if $number == 1;
            sleep $number > 1 ? 0.29 + rand 0.02 : rand 0.3;
            my $pool = 'limit' . ($first + $client);
            return ("/$pool?idle=300&id=limit.$pool.$number", @options);
        });
    } [0], [20, method => 'POST', body => 'x' x 100];
    $_->finish for @loads;
    my $after = stats($part);
    my @hold_ups = $hold_ups->();
    my @requests = grep { $_->{name} eq 'limit' } requests_in($log, $nginx, limit => 480);
    is scalar @requests, 480, 'a limit: so many requests';
    my @bad = grep { ($_->{stale} || $_->{status} != 200) && !was_held_up($_, 0, @hold_ups) } @requests;
    is scalar @bad, 0, 'a limit: no request meets a stale connection';
    diag sprintf '%s after %.3f s: %s', @$_{qw(id idle)}, $_->{stale} // $_->{status} for @bad;
    is $after->{ids_again}, 0, 'a limit: none comes twice';
    my $opened = $after->{accepted} - $before->{accepted};
    my $expired = $after->{expired} - $before->{expired};
    cmp_ok $expired, '<', $opened / 4, 'a limit: the server closes hardly any';
    cmp_ok counted($status, 'limit', 'closed learned'), '>', $opened / 2, 'a limit: most are closed by what was learned';
    diag "a limit: $opened opened, $expired closed by the server";
    closes_first($part, 0.3, 'a limit, at rest');
    # A server that is late may seem to have another limit at first.
    cmp_ok scalar told($part), '<=', 1 + @hold_ups, 'a limit: the log tells it once';
}

# Two workers, and a reload.
{
    my $shared = Keepalive::Backend->start;
    my $shared_port = free_port();
    my $inside = "server @{[ $shared->address ]}; keepalive 4; keepalive_handover off; keepalive_hint learn;";
    my $two = handover_nginx($shared_port, { map { ("shared$_" => $inside) } 1 .. 10 }, log_level => 'info')->start;
    my $part = { name => 'shared', pools => 10, backend => $shared, listener => 0, address => $shared->address, nginx => $two };
    my $shared_status = Keepalive::Status->new($shared_port);
    my @clients = clients_of($shared_port, $two);
    teach($part, 0.3, 10, sub { ask($clients[0], $_[0]) });
    ok knows($part, 0.3), 'two workers: one of them learns it' or diag join ' ', told($part);
    closes_first($part, 0.3, 'two workers: the other one knows it', sub { ask($clients[1], $_[0]) });
    reload_to_end($two);
    @clients = clients_of($shared_port, $two);
    for my $client (@clients) {
        closes_first($part, 0.3, 'after a reload', sub { ask($client, $_[0]) });
    }
    cmp_ok scalar told($part), '<=', 1 + $hold_ups->(), 'two workers: the log tells it once';
    cmp_ok counted($shared_status, 'shared', 'closed learned'), '>', 15, 'two workers: most are closed by what was learned';
    $two->stop;
}

# The server comes back with another limit.
sub restart {
    my ($part) = @_;
    $part->{backend}->stop;
    $part->{backend} = Keepalive::Backend->start(listen => [$part->{address}]);
}

{
    my $part = $parts{changed};
    teach($part, 0.3, 10);
    for my $limit (1.5, 0.15) {
        restart($part);
        my $closed = teach($part, $limit, 20);
        ok knows($part, $limit), "$limit seconds after a restart: after twenty closes at most, the log tells it" or diag join ' ', told($part);
        diag "$limit seconds after a restart: told after $closed closes";
        closes_first($part, $limit, "$limit seconds after a restart");
    }
}

# The limit rises, and each pool has room for the connection alone that watches it.
{
    my $part = $parts{raised};
    teach($part, 0.3, 10);
    ok knows($part, 0.3), 'room for one connection: the limit is learned' or diag join ' ', told($part);
    wait_for { !stats($part)->{open} };
    my $closed = teach($part, 1, 20);
    ok knows($part, 1), 'room for one connection: a higher limit is learned' or diag join ' ', told($part);
    diag "room for one connection: told after $closed closes";
}

# Many connections are closed at once, after any time.
{
    my $part = $parts{restart};
    for my $round (1, 2) {
        for (1 .. $part->{pools}) {
            get($port, next_path($part, ''));
            sleep rand 0.1;
        }
        restart($part);
    }
    # Each has its moment.
    sleep 0.1;
    is join(' ', told($part)), '', 'a restart teaches nothing';
    get($port, '/restart1');
    sleep 1.5;
    is get($port, '/restart1')->{headers}{'x-request'}, 2, 'a restart: connections are kept afterwards';
    is counted($status, 'restart', 'closed learned'), 0, 'a restart: none is closed early';
}

# Nothing to be learned.
{
    my $part = $parts{none};
    my $until = time + 2.5;
    while (time < $until) {
        get($port, next_path($part, ''));
        sleep rand 0.06;
    }
    is stats($part)->{accepted}, $part->{pools}, 'no limit: all connections are kept';
    is join(' ', told($part)), '', 'no limit: nothing is learned';
}

{
    my $part = $parts{random};
    # The same ages each time.
    srand 1;
    my @ages = map { 50 + int rand 1450 } 1 .. 40;
    srand;
    for my $age (@ages) {
        get($port, next_path($part, "idle=$age"));
        sleep 0.08;
    }
    ok wait_for { stats($part)->{expired} == @ages }, 'any time: the server closes all' or diag stats($part)->{expired};
    # Four ages that agree are chance once in a while.
    my @told = told($part);
    cmp_ok @told, '<=', 1, 'any time: hardly anything is learned' or diag "@told";
    is counted($status, 'random', 'closed learned'), 0, 'any time: none is closed early';
}

# Two modes that do not learn.
{
    for (1 .. 15) {
        get($port, next_path($parts{$_}, 'idle=300')) for qw(on off);
        sleep 0.04;
    }
    for my $part (@parts{qw(on off)}) {
        ok wait_for { stats($part)->{expired} >= 15 }, "keepalive_hint $part->{name}: the server closes all";
        is join(' ', told($part)), '', "keepalive_hint $part->{name}: nothing is learned";
        is counted($status, $part->{name}, 'closed learned'), 0, "keepalive_hint $part->{name}: none is closed early";
    }
}

# A margin.
{
    my $part = $parts{early};
    teach($part, 0.3, 10);
    ok knows($part, 0.3), 'a margin: the limit is learned' or diag join ' ', told($part);
    my $half;
    for (1 .. 5) {
        (undef, $half) = let_expire($part, 10, 'idle=300');
        last if $half < 0.27;
    }
    ok $half >= 0.15 && $half < 0.27, 'a margin: it holds' or diag $half;
}

# A number of requests: the server closes five milliseconds after the last answer. Later requests come at once.
{
    my $part = $parts{requests};
    my $send = sub { my ($most, @options) = @_; return get($port, "/requests1?fault=close&after=5&from=$most", @options) };
    my %expected = (5 => 10, 9 => 20);
    for my $most (5, 9) {
        my $knows = sub { ((told($part, 'requests'))[-1] // 0) == $most };
        my ($ended, $deadline) = (0, time + 20);
        while ($ended < $expected{$most} && time < $deadline && !$knows->()) {
            my $last = $send->($most)->{headers}{'x-request'} // 0;
            $ended++ if $last == $most;
            sleep 0.02;
        }
        # nginx may not know of the last one yet.
        sleep 0.1;
        ok $knows->(), "$most requests: after $expected{$most} closes at most, the log tells it" or diag join ' ', told($part, 'requests');
        diag "$most requests: told after $ended closes";
        my @answers = map { $send->($most, method => 'POST', body => 'x') } 1 .. 20 * $most;
        is scalar(grep { $_->{status} != 200 } @answers), 0, 'a number of requests: no POST meets it';
        diag join ' ', map { $_->{status} } @answers if grep { $_->{status} != 200 } @answers;
        my $connections = grep { ($_->{headers}{'x-request'} // 0) == 1 } @answers;
        cmp_ok $connections, '<=', 25, "$most requests: but connections are used nearly as often";
        cmp_ok counted($status, 'requests', 'closed learned'), '>=', 10, "$most requests: most are closed by what was learned";
    }
}

# The one that announces its limit: what was announced leaves a margin of a tenth, and what was learned hardly any.
{
    my $part = $parts{announced};
    my $deadline = time + 15;
    sleep 0.2 while !told($part) && time < $deadline;
    ok scalar told($part), 'an announced limit: it is learned all the same';
    my ($answers, @failures) = $patient->stop;
    is join(' ', @failures), '', 'an announced limit: no request is lost';
    my ($closed, $half);
    for (1 .. 5) {
        ($closed, $half) = let_expire($part, 10, $announced);
        last if $half > 0.94 && $closed <= 2 || !$hold_ups->();
    }
    cmp_ok $half, '>', 0.94, 'an announced limit: connections are kept nearly as long';
    cmp_ok $closed, '<=', 2, 'an announced limit: the server closes hardly any';
}

$status->consistent('the counters agree');
$nginx->stop;
done_testing;
