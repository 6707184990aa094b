# The wait queue: which requests wait, in which order, and what happens when the queue is full or the time is over.
#
# faults: F9.2 "those who stay are answered" "the server never hears of those who left"
# faults: F13.1 "a full queue refuses with 502" "timed out is $expected" "first come, first served; nobody passes the others"
# faults: F13.1 "they are logged with 499"

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
my $limited = 'server ' . $backend->address . ' max_conns=1;';

# A request that holds the only place until it is aborted.
sub hold {
    my ($name) = @_;
    my $before = $backend->stats->{requests};
    my $request = begin($port, "/$name?fault=hang&at=start");
    ok wait_for { $backend->stats->{requests} == $before + 1 }, "$name: one request holds the server";
    return $request;
}

for my $zone ('', 'zone %s 64k;') {
    for my $keepalive ('', 'keepalive 1;') {
        my $title = ($zone ? 'zone' : 'no zone') . ', ' . ($keepalive || 'no pool');
        my $in = sub { $zone && sprintf $zone, $_[0] };
        my %upstreams = (
            one   => "$limited $keepalive queue 100 timeout=20s;",
            small => "$limited $keepalive queue 10;",
            tiny  => "$limited $keepalive queue 1 timeout=20s;",
            map { ("answers$_" => "$limited $keepalive queue 1 timeout=200ms " . ($_ && "status=$_") . ';') }
                '', 502, 503, 504,
        );
        my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . $in->($_) } keys %upstreams })->start;

        # In order, while they wait and while the queue drains.
        $backend->reset;
        my $held = hold('one');
        my @requests;
        for my $number (1 .. 30) {
            push @requests, begin($port, "/one?delay=5&n=$number");
            settle($port);
        }
        is $backend->stats->{requests}, 1, "$title: nobody passes while one holds the server";
        $held->abort;
        push @requests, map { sleep 0.002; begin($port, "/one?delay=5&n=$_") } 31 .. 60;
        my @answers = map { $_->finish } @requests;
        is statuses(@answers), '200 x 60', "$title: all are answered";
        my @order = map { carried_by($_) } @answers;
        is_deeply \@order, [sort { $a <=> $b } @order], "$title: first come, first served; nobody passes the others";
        is $backend->stats->{max_open}, 1, "$title: never more than one connection is open";
        # The connection of the request that was aborted, and one for all others.
        is $backend->stats->{accepted}, 2, "$title: the pool hands its connection from one to the next" if $keepalive;
        is $backend->stats->{requests}, 61, "$title: each request has come once";

        # Full.
        $held = hold('tiny');
        my $waits = begin($port, '/tiny?n=first');
        settle($port);
        my $begun = time;
        is get($port, '/tiny?n=second')->{status}, 502, "$title: a full queue refuses with 502";
        cmp_ok time - $begun, '<', 2, "$title: at once";
        $held->abort;
        is $waits->finish->{status}, 200, "$title: the one that waits is served";
        is get($port, '/tiny')->{status}, 200, "$title: and the server is free again";
        my @full = $nginx->error_log =~ /\[error\][^\n]*upstream queue is full[^\n]*n=second/g;
        is @full, 1, "$title: it is logged once";

        # Full and timed out, with each status.
        for my $status ('', 502, 503, 504) {
            my $name = "answers$status";
            my $expected = $status || 502;
            $held = hold($name);
            $begun = time;
            $waits = begin($port, "/$name?n=waits");
            settle($port);
            is get($port, "/$name?n=full")->{status}, $expected, "$title, '$status': full is $expected";
            is $waits->finish->{status}, $expected, "$title, '$status': timed out is $expected";
            my $waited = time - $begun;
            cmp_ok $waited, '>', 0.19, "$title, '$status': not before the timeout";
            cmp_ok $waited, '<', 2, "$title, '$status': but soon after";
            my $text = $expected == 504
                ? qr/upstream timed out \(110: Connection timed out\) while waiting in upstream queue/
                : qr/upstream queue timed out while waiting in upstream queue/;
            my @lines = grep { m{"GET /$name\?n=waits } } split /\n/, $nginx->error_log;
            like join("\n", @lines), qr/\A\S+ \S+ \[error\] [^\n]*$text, client: 127[^\n]*\z/, "$title, '$status': one line says so";
            $held->abort;
            is get($port, "/$name")->{status}, 200, "$title, '$status': afterwards the server is free";
        }

        # Half of the clients leave: their places are free at once, and the others keep their order.
        $backend->reset;
        $held = hold('small');
        my @waiting = map { my $one = begin($port, "/small?n=$_"); settle($port); $one } 1 .. 10;
        is get($port, '/small')->{status}, 502, "$title: ten wait, an eleventh has no place";
        $waiting[$_ * 2]->abort for 0 .. 4;
        my @stay = map { $waiting[$_ * 2 + 1] } 0 .. 4;
        ok wait_for { log_of($nginx, '/small') == 6 }, "$title: nginx has noticed that five left";
        is join(' ', map { $_->{status} } log_of($nginx, '/small')), '502 499 499 499 499 499', "$title: they are logged with 499";
        push @stay, map { my $one = begin($port, "/small?n=$_"); settle($port); $one } 11 .. 15;
        is get($port, '/small')->{status}, 502, "$title: five others have taken their places, a sixth has none";
        $held->abort;
        @answers = map { $_->finish } @stay;
        is statuses(@answers), '200 x 10', "$title: those who stay are answered";
        @order = map { carried_by($_) } @answers;
        is_deeply \@order, [sort { $a <=> $b } @order], "$title: in their order";
        is $backend->stats->{requests}, 11, "$title: the server never hears of those who left";

        # All clients leave, last the one whose request holds the server.
        $held = hold('small');
        @waiting = map { begin($port, "/small?n=$_") } 1 .. 10;
        settle($port);
        $_->abort for @waiting, $held;
        is get($port, '/small')->{status}, 200, "$title: when all have left, the next one is served";

        $nginx->stop;
        ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
    }
}

done_testing;
