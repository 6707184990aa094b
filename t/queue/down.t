# Servers fail while requests wait: "all servers down" differs from "busy", for new requests and for those that wait already.
#
# faults: F13.2 "those who wait fail when the last server does" "those who wait are served after a failure"
# faults: F17.4 "all servers are marked down"

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

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($port, $closed) = map { free_port() } 1 .. 2;
my ($one, $two) = map { 'server ' . $backend->address($_) } 0, 1;
# A server that is down makes the upstream one of several: nginx never takes the only one out of service.
my $off = "server 127.0.0.1:$closed down;";
my $fails = 'max_fails=1 fail_timeout=30s';

sub requests { $backend->stats(0)->{requests} + $backend->stats(1)->{requests} }

# One request that holds a server, by a script of its own, and others that wait.
sub crowd {
    my ($name, $script, $number) = @_;
    my $before = requests();
    my $held = begin($port, "/$name?$script");
    ok wait_for { requests() == $before + 1 }, "$name: a request holds the server";
    my @waiting = map { my $one = begin($port, "/$name?n=$_"); settle($port); $one } 1 .. $number;
    is requests(), $before + 1, "$name: the others wait";
    return ($held, @waiting);
}

for my $zone ('', 'zone %s 64k;') {
    my $title = $zone ? 'zone' : 'no zone';
    my %upstreams = (
        off      => "server 127.0.0.1:$closed down max_conns=1; $off queue 10;",
        refusing => "server 127.0.0.1:$closed max_conns=1 $fails; $off queue 10 timeout=20s;",
        dying    => "$one max_conns=1 $fails; $off queue 10 timeout=20s;",
        pooled   => "$one max_conns=1 $fails; $off keepalive 4; queue 10 timeout=20s;",
        status   => "$one max_conns=1 $fails; $off queue 10 timeout=20s status=503;",
        forgiven => "$one max_conns=1 max_fails=0; $off keepalive 4; queue 10 timeout=20s;",
        only     => "$one max_conns=1; keepalive 4; queue 10 timeout=20s;",
        partly   => "$one max_conns=1 $fails; $two max_conns=1; keepalive 4; queue 10 timeout=20s;",
        returns  => "$one max_conns=1 max_fails=1 fail_timeout=1s; $off queue 10 timeout=20s;",
        hanging  => "$one max_conns=1 $fails; $off queue 10 timeout=20s;",
        patient  => "$one max_conns=1 max_fails=0; $off queue 10 timeout=20s;",
        retried  => "server 127.0.0.1:$closed max_conns=1 max_fails=0; $one max_conns=1 max_fails=0; queue 10 timeout=20s;",
    );
    my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        locations => <<'END')->start;
    location /hanging_soon { proxy_read_timeout 300ms; proxy_next_upstream off; proxy_pass http://hanging; }
    location /patient_soon { proxy_read_timeout 300ms; proxy_next_upstream off; proxy_pass http://patient; }
END
    my $begun;
    my $begin_anew = sub { afresh($port, $backend); $begun = time };
    my $at_once = sub { cmp_ok time - $begun, '<', 3, "$title, $_[0]: at once" };

    # No server from the beginning, or after a refused connection.
    $begin_anew->();
    is statuses(map { begin($port, '/off') } 1 .. 5), '502 x 5', "$title: all servers are marked down";
    is statuses(map { get($port, '/refusing') } 1 .. 5), '502 x 5', "$title: all servers refuse";
    $at_once->('down from the beginning');
    my @lines = $nginx->error_log =~ /no live upstreams while connecting to upstream[^\n]*GET \/(?:off|refusing)/g;
    cmp_ok @lines, '>=', 9, "$title: in the words that nginx has for it";

    # The last live server dies while requests wait for it.
    for my $name (qw(dying pooled status)) {
        $begin_anew->();
        my ($held, @waiting) = crowd($name, 'fault=close&at=start&delay=300', 5);
        is statuses(@waiting), '502 x 5', "$title, $name: those who wait fail when the last server does";
        is $held->finish->{status}, 502, "$title, $name: as does the one whose connection it was";
        is get($port, "/$name")->{status}, 502, "$title, $name: and a newcomer";
        is requests(), 1, "$title, $name: nothing was sent to it any more";
        $at_once->($name);
    }
    my @failed = $nginx->error_log =~ /no live upstreams[^\n]*GET \/dying/g;
    cmp_ok @failed, '>=', 6, "$title: the log says why";

    # A server that is never taken out of service may fail one request; the next one has its chance.
    for my $name (qw(forgiven only)) {
        $begin_anew->();
        my ($held, @waiting) = crowd($name, 'fault=close&at=start&delay=200', 5);
        is statuses(@waiting), '200 x 5', "$title, $name: those who wait are served after a failure";
        is $held->finish->{status}, 502, "$title, $name: only the one that was under way has failed";
        is $backend->stats->{max_open}, 1, "$title, $name: one connection at a time";
    }

    # One of two dies: the other one serves all.
    $begin_anew->();
    my @held = map { begin($port, "/partly?delay=300&fault=close&at=start&n=$_") } 1, 2;
    ok wait_for { requests() == 2 }, "$title: two servers are held";
    my @waiting = map { begin($port, "/partly?n=$_") } 1 .. 8;
    my @answers = map { $_->finish } @waiting;
    my @good = grep { $_->{status} == 200 } @answers;
    is @good + grep({ $_->{status} == 502 } @answers), 8, "$title: all come to an end when both servers have failed";
    $_->finish for @held;
    $at_once->('both fail');

    # Refusing: each connection for a waiting request fails, one after the other.
    $begin_anew->();
    my ($held, @crowd) = crowd('forgiven', 'delay=200&header=Connection:close', 3);
    $backend->refuse(800);
    is statuses(@crowd), '502 x 3', "$title: a server that refuses from now on";
    $held->finish;
    cmp_ok time - $begun, '<', 0.8, "$title: is asked at once by each";
    ok wait_for { get($port, '/forgiven')->{status} == 200 }, "$title: and serves when it listens again";

    # Unavailable for a second only: waiting requests fail at once, new ones are served afterwards.
    $begin_anew->();
    ($held, @crowd) = crowd('returns', 'fault=close&at=start&delay=200', 3);
    is statuses(@crowd), '502 x 3', "$title: out of service for a second";
    ok wait_for { get($port, '/returns')->{status} == 200 }, "$title: then in service again";
    ($held, @crowd) = crowd('returns', 'delay=200', 3);
    is statuses($held, @crowd), '200 x 4', "$title: with a queue as before";

    # Hanging: proxy_read_timeout ends the running request, and waiting ones go on or fail, depending on the server's max_fails.
    for my $case ([hanging => '502 x 2, 504 x 1'], [patient => '200 x 2, 504 x 1']) {
        my ($name, $expected) = @$case;
        $begin_anew->();
        my $held = begin($port, "/${name}_soon?fault=hang&at=start");
        ok wait_for { requests() == 1 }, "$title, $name: a request hangs";
        my @waiting = map { begin($port, "/$name?n=$_") } 1, 2;
        is statuses($held, @waiting), $expected, "$title, $name: until proxy_read_timeout";
        $at_once->($name);
    }

    # A try that is refused goes on to the next server, and waits for it.
    $begin_anew->();
    $held = begin($port, '/retried?delay=300');
    ok wait_for { requests() == 1 }, "$title: the second server is held";
    is statuses(map { begin($port, "/retried?n=$_") } 1 .. 5), '200 x 5', "$title: refused by the first, they wait for the second";
    is $held->finish->{status}, 200, "$title: which serves all";
    is $backend->stats->{max_open}, 1, "$title: one at a time";
    is requests(), 6, "$title: each once";

    $nginx->stop;
}

done_testing;
