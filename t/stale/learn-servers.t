# keepalive_hint learn with servers that others have written, each with an idle limit, or a limit of requests, that most of them do not
# announce. Once it is learned, POSTs that come when the server is about to close are answered, and meet no stale connection. With root
# and network namespaces, the servers are at the far end of a link; without the lesson, many requests meet a stale connection there.
#
# faults: F1.3 "$server->{name}: no POST meets a stale connection"
# faults: F1.4 "requests without a pause: no POST is lost"
# faults: F11.6 "$server->{name}: the log tells the limit" "$server->{name}: connections are used again at half the limit"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use IO::Select;
use IO::Socket::INET;
use List::Util qw(max min sum0);
use POSIX qw(ceil);
use Test::More;
use Time::HiRes qw(sleep time clock_gettime CLOCK_MONOTONIC);

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Lessons;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Servers;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

# Round trip in seconds.
my $round_trip = 0.004;
my $link = $missing ? undef : Keepalive::Link->start(delay => 500 * $round_trip, watched => 1);
if (!$link) {
    diag 'without a link: ' . ($missing || 'TUN devices are not permitted');
    system('ip link set lo up') if $ENV{KEEPALIVE_LINK};
    $round_trip = 0;
}
my $hold_ups_here = watch_machine();
my @servers = start_servers($link ? ($Keepalive::Link::FAR, $link->within) : '127.0.0.1');
my %by_name = map { $_->{name} => $_ } @servers;
my @idle = grep { $_->{limit} } @servers;
my $php = $by_name{php};
# Each client has an upstream of its own. Those of `on` do not learn, to see that what the others do not meet is met.
# Of one that looks each second only the shortest idle time is a lesson, so many are idle there.
sub lesson_pools { my ($server) = @_; return $server->{each_second} ? 48 : 12 }
# How often each client sends a request at the limit.
sub rounds { my ($server) = @_; return $server->{each_second} ? 2 : 4 }
my $clients = ceil(400 / sum0 map { rounds($_) } @idle);
my $not_learning = ceil(40 / @idle);
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);

my ($upstreams, $locations) = ('', '');
sub add_pool {
    my ($name, $address, $hint, $pass) = @_;
    $upstreams .= "upstream $name { server $address max_fails=0; keepalive 4; keepalive_hint $hint; keepalive_requests 1000000; }\n";
    $locations .= 'location /' . "$name { " . ($pass // "proxy_pass http://$name/;") . " }\n";
}
for my $server (@idle) {
    add_pool("$server->{name}$_", $server->{address}, 'learn') for 1 .. max($clients, lesson_pools($server));
    add_pool("$server->{name}on$_", $server->{address}, 'on') for 1 .. $not_learning;
}
if ($php) {
    my %parameters = (REQUEST_METHOD => '$request_method', QUERY_STRING => '$query_string', CONTENT_TYPE => '$content_type',
        CONTENT_LENGTH => '$content_length', SCRIPT_FILENAME => "$php->{folder}/index.php");
    my $pass = join ' ', map { "fastcgi_param $_ $parameters{$_};" } sort keys %parameters;
    add_pool("php$_", $php->{address}, 'learn', "fastcgi_pass php$_; fastcgi_keep_conn on; $pass") for 1, 2;
}
add_pool("behind$_->[0]", $backend->address($_->[0]), $_->[1]) for [0, 'learn'], [1, 'learn'], [2, 'on'];

my ($port, $log) = (free_port(), work_dir() . '/requests.log');
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
keepalive_requests 100000;
$upstreams
$times_format
server {
    listen 127.0.0.1:$port backlog=1024;
    location = /status { access_log off; keepalive_status; }
    access_log $log times;
    $locations
}
END
my $status = Keepalive::Status->new($port);

sub hold_ups { return ($hold_ups_here->(), $link ? $link->hold_ups : ()) }

sub told { my ($server, $what) = @_; return limits_told($nginx, $server->{address}, $what) }

# Whether the log has told a limit that the server has.
sub knows {
    my ($server) = @_;
    my $told = (told($server, 'idle'))[-1] or return 0;
    my ($low, $high) = $server->{each_second} ? @$server{qw(limit limit)} : (min(@{ $server->{ages} }), max(@{ $server->{ages} }));
    return $high && $told > 0.9 * $low && $told < 1.1 * $high;
}

# The lesson: requests over new connections, until the log tells the limits. Meanwhile some direct connections show when each server
# closes: a sorted list `ages`, and `limit`, which is the first of these.
sub teach {
    my (%direct, %closed, $opened);
    my $select = IO::Select->new;
    my $begun = time;
    for my $server (@idle) {
        @$server{qw(turn due direct direct_due ages)} = (0, $begun + rand 0.1, 12, $begun + rand 0.1, []);
    }
    my $is_taught = sub { my ($server) = @_; return $server->{announces} || ($server->{told} //= knows($server) ? time - $begun : undef) };
    while (time < $begun + 25) {
        my @open = grep { !$is_taught->($_) || @{ $_->{ages} } < 12 } @idle or last;
        for my $server (@open) {
            my ($now, $name) = (time, $server->{name});
            if (!$is_taught->($server) && $server->{due} <= $now) {
                # The server closes the connection of a pool before its turn comes again.
                $server->{due} = $now + 1.2 * $server->{longest} / lesson_pools($server) * (0.8 + rand 0.4);
                get($port, "/$name" . (1 + $server->{turn}++ % lesson_pools($server)));
            }
            if ($server->{direct} && $server->{direct_due} <= $now) {
                $server->{direct}--;
                $server->{direct_due} = $now + 0.07 + rand 0.06;
                my ($host, $its_port) = split /:/, $server->{address};
                my $socket = begin($its_port, '/', keep_alive => 1,
                    over => IO::Socket::INET->new(PeerAddr => $host, PeerPort => $its_port, Timeout => 10));
                $socket->receive;
                $direct{ fileno $socket->{socket} } = [$server, $socket, time];
                $select->add($socket->{socket});
            }
        }
        for my $socket ($select->can_read(0.005)) {
            next if sysread $socket, my $bytes, 4096;
            my ($server, undef, $idle_since) = @{ delete $direct{ fileno $socket } };
            $select->remove($socket);
            push @{ $server->{ages} }, time - $idle_since;
        }
    }
    for my $server (@idle) {
        @{ $server->{ages} } = sort { $a <=> $b } @{ $server->{ages} };
        # Or of what it announces.
        $server->{half} = $server->{limit} / 2;
        $server->{limit} = $server->{ages}[0] // $server->{limit} unless $server->{each_second};
    }
}

# Returns a function that waits from the end of a request until the next one is to be sent, so that it arrives at about the
# moment at which the server closes the connection.
sub aim {
    my ($server) = @_;
    my @ages = @{ $server->{ages} };
    my ($low, $high) = map { $_ // $server->{limit} } @ages[@ages / 4, 3 * @ages / 4];
    my ($before, $after) = (0.002 + 1.25 * $round_trip, 0.003);
    return sub { sleep $low - $before + rand($high - $low + $before + $after) } unless $server->{each_second};
    return sub {
        my $now = clock_gettime(CLOCK_MONOTONIC);
        sleep ceil($now + $server->{limit}) - $now - $before + rand($before + $after);
    };
}

# One request to open a connection, and then by turns at the limit and at half of it.
sub start_load {
    my ($server, $name, $clients) = @_;
    my $aim = aim($server);
    return Keepalive::Load->start($port, clients => $clients, requests => 2 * rounds($server), request => sub {
        my ($number, $client) = @_;
        srand if $number == 1;
        $number == 1 ? sleep rand 1 : $number % 2 ? sleep $server->{half} : $aim->();
        return ("/$name$client?id=$name.$client.$number", method => 'POST', body => 'x' x 100);
    });
}

sub summary { return join ' ', map { "$_->{id} after $_->{idle} s: $_->{status} " . ($_->{stale} // '') } @_ }

teach();
for my $server (grep { !$_->{announces} } @idle) {
    ok $server->{told}, "$server->{name}: the log tells the limit" or diag join ' ', told($server, 'idle');
}
{
    my @loads = map { (start_load($_, $_->{name}, $clients), start_load($_, "$_->{name}on", $not_learning)) } @idle;
    $_->finish for @loads;
}
my @requests = requests_in($log, $nginx, map { $_->{name} => $clients * 2 * rounds($_) } @idle);
my @hold_ups = hold_ups();
my $is_excused = sub { was_held_up($_[0], $round_trip, @hold_ups) };
my ($at_limit, $all_met) = (0, 0);
for my $server (@idle) {
    my $name = $server->{name};
    my @posts = grep { $_->{name} eq $name } @requests;
    my @late = grep { $_->{id} =~ /[02468]$/ } @posts;
    my @half = grep { $_->{id} =~ /[3579]$/ } @posts;
    $at_limit += @late;
    is scalar @posts, $clients * 2 * rounds($server), "$name: so many requests";
    my @failed = grep { $_->{status} != 200 && !$is_excused->($_) } @posts;
    my @stale = grep { $_->{stale} && !$is_excused->($_) } @posts;
    if ($server->{each_second}) {
        # Of the connections that such a server closes at once, only the shortest idle time counts. A connection that watches may live
        # up to a second longer, which makes nginx look for another limit, and the lowest one is learned anew.
        cmp_ok scalar @failed, '<=', @late / 8, "$name: hardly a POST is lost" or diag summary(@failed);
        cmp_ok scalar @stale, '<=', @late / 8, "$name: hardly a POST meets a stale connection" or diag summary(@stale);
    }
    else {
        is scalar @failed, 0, "$name: no POST is lost" or diag summary(@failed);
        is scalar @stale, 0, "$server->{name}: no POST meets a stale connection" or diag summary(@stale);
    }
    is came_twice($server), 0, "$name: none comes twice";
    my @calm = grep { $_->{idle} < 1.4 * $server->{half} && !$is_excused->($_) } @half;
    my @opened = grep { !$_->{reused} } @calm;
    cmp_ok scalar @opened, '<=', @calm / 10, "$server->{name}: connections are used again at half the limit";
    cmp_ok counted($status, $name, 'closed learned'), '>', @late / 4, "$name: most are closed by what was learned"
        unless $server->{announces} || $server->{each_second};
    my @met = grep { $_->{name} eq "${name}on" && $_->{stale} } @requests;
    $all_met += @met unless $server->{announces};
    my @ages = @{ $server->{ages} };
    diag sprintf '%s: closes at %.3f to %.3f s, told %s after %.1f s; at the limit %d, %d over the same connection; excused %d; with on %d of %d stale',
        $name, @ages ? @ages[0, -1] : (0, 0), join(' ', told($server, 'idle')) || 'nothing', $server->{told} // 0, scalar @late,
        scalar(grep { $_->{reused} } @late), scalar(grep { ($_->{stale} || $_->{status} != 200) && $is_excused->($_) } @posts),
        scalar @met, scalar(grep { $_->{name} eq "${name}on" && $_->{id} =~ /[02468]$/ } @requests);
}
cmp_ok $at_limit, '>=', 400, 'POSTs at the limit';
cmp_ok $all_met, '>', 0, 'keepalive_hint on: some POSTs meet a stale connection' if $link;
diag sprintf 'held up for %.0f %% of the time', 100 * sum0(map { $_->[1] - $_->[0] } $hold_ups_here->()) / (time - $^T || 1);

# Requests without a pause, over one connection to nginx, until the log tells the number of requests: some are sent again, for they
# are no POSTs. Then POSTs. Returns the failures among these.
sub without_pause {
    my ($path, $knows, $posts, $clients) = @_;
    if ($knows) {
        my $lesson = Keepalive::Load->start($port, clients => $clients, keep_alive => 1, request => sub { $path->($_[1], "l$_[1].$_[0]") });
        wait_for { $knows->() };
        my (undef, @failures) = $lesson->stop;
        is join(' ', @failures), '', 'requests without a pause: the lesson is answered';
    }
    my $load = Keepalive::Load->start($port, clients => $clients, requests => $posts, keep_alive => 1,
        request => sub { ($path->($_[1], "p$_[1].$_[0]"), method => 'POST', body => 'x') });
    my (undef, @failures) = $load->finish;
    return @failures;
}

for my $case ([5, 6, 0], [1, 11, 1]) {
    my ($after, $number, $listener) = @$case;
    my $address = $backend->address($listener);
    my $knows = sub { ((limits_told($nginx, $address, 'requests'))[-1] // 0) == $number };
    my $path = sub { "/behind$listener?fault=close&after=$after&from=$number&id=behind$listener.$_[1]" };
    my @failures = without_pause($path, $knows, 400, 1);
    my $title = "$number requests, closed $after ms later";
    ok $knows->(), "$title: the log tells it";
    is scalar @failures, 0, "$title, requests without a pause: no POST is lost" or diag @failures;
    my $stats = $backend->stats($listener);
    diag "$title: $stats->{requests} requests over $stats->{accepted} connections";
}
{
    my @failures = without_pause(sub { "/behind2?fault=close&after=5&from=6" }, undef, 60, 1);
    cmp_ok scalar @failures, '>', 0, 'keepalive_hint on, requests without a pause: some POSTs are lost';
}

if ($php) {
    my $told = sub { (told($php, 'requests'))[-1] // 0 };
    my @failures = without_pause(sub { "/php$_[0]?id=php.$_[1]" }, sub { $told->() == $php->{requests} }, 200, 2);
    is $told->(), $php->{requests}, 'PHP-FPM: the log tells the number of requests';
    is scalar @failures, 0, 'PHP-FPM, requests without a pause: no POST is lost' or diag @failures;
    is came_twice($php), 0, 'PHP-FPM: none comes twice';
}

$status->consistent('the counters agree');
$nginx->stop;
done_testing;
