package Keepalive::Lessons;

# For the files about `keepalive_hint learn`: each request with the time for which its connection was idle, and the moments at
# which the machine was too busy for times to mean anything.

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(sum0);
use POSIX ();
use Time::HiRes qw(time);

use Keepalive::Setup;

our @EXPORT = qw($times_format requests_in watch_machine was_held_up limits_told counted);

# In http: the log format of requests_in(). The argument `id` of a request is `name.client.number`; the numbers of a client begin
# with 1.
our $times_format = q(log_format times '$arg_id $msec $request_time $status $upstream_http_x_request $upstream_keepalive_status $upstream_connect_time';);

# The requests of a log that are called `name`, as nginx saw them. Times are in seconds: `begun`, `ended`, `before` (when the one
# before it ended), `idle` (how long its client waited since), `connect`. `new` says whether it was the first one that the server got
# over its connection, `reused` whether its connection came from the pool and was open; `stale` is the line of the error log if it met
# a stale one. With `name => 480` it waits for so many of this name: nginx may write a line when the client has its answer already.
sub requests_in {
    my ($log, $nginx, %wanted) = @_;
    my (@lines, %requests);
    wait_for {
        open my $in, '<', $log or die "$log: $!";
        @lines = grep { /\n\z/ } <$in>;
        !grep { my $name = $_; $wanted{$name} > grep { /^\Q$name\E\./ } @lines } keys %wanted;
    };
    for my $line (@lines) {
        my ($id, $ended, $took, $status, $number, $pool, @connect) = split ' ', $line;
        my ($name, $client) = $id =~ /^(\w+)\.(\w+)\.\d+$/ or next;
        $requests{$id} = { id => $id, name => $name, begun => $ended - $took, ended => $ended, status => $status,
            new => $number eq '1', reused => $pool eq 'HIT', connect => $connect[-1] };
        $requests{$id}{stale} = $pool if $pool eq 'STALE';
    }
    for my $request (values %requests) {
        my ($client, $number) = $request->{id} =~ /^(.*)\.(\d+)$/;
        my $before = $requests{ "$client." . ($number - 1) } or next;
        @$request{qw(before idle)} = ($before->{ended}, $request->{begun} - $before->{ended});
    }
    for my $line (split /\n/, $nginx->error_log) {
        next unless $line =~ /prematurely closed|reset by peer|Broken pipe/;
        my ($id) = $line =~ /[?&]id=([\w.]+)/ or next;
        $requests{$id}{stale} = $line if $requests{$id};
    }
    return values %requests;
}

# Starts a process that looks each millisecond whether it still runs. Returns a function that returns the times at which it did
# not for more than two milliseconds, as pairs of seconds.
sub watch_machine {
    my $file = work_dir() . "/held-up-$$";
    my $parent = $$;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
        open my $told, '>', $file or POSIX::_exit(1);
        $told->autoflush(1);
        for (my $last = time; getppid == $parent;) {
            select undef, undef, undef, 0.001;
            my $now = time;
            print $told "$last $now\n" if $now - $last > 0.003;
            $last = $now;
        }
        POSIX::_exit(0);
    }
    return sub {
        open my $in, '<', $file or return;
        return map { [split] } grep { /\n\z/ } <$in>;
    };
}

# Whether the machine was too busy to carry a request, or the answer before it, in time; with the time of a round trip.
sub was_held_up {
    my ($request, $round_trip, @hold_ups) = @_;
    for my $time (grep { defined } @$request{qw(before begun)}) {
        return 1 if grep { $_->[1] > $time - $round_trip - 0.01 && $_->[0] < $time + $round_trip + 0.01 } @hold_ups;
    }
    return 0;
}

# The limits of a server at an address that the log tells: seconds, or numbers of requests.
sub limits_told {
    my ($nginx, $address, $what) = @_;
    my $text = $what eq 'requests' ? qr/connections after (\d+) requests/ : qr/idle connections after ([\d.]+)s/;
    return $nginx->error_log =~ /\[info\] .*?server \Q$address\E closes $text \(learned\)/g;
}

# The sum of a counter over all upstreams whose names begin like this; `closed learned` is the one with this reason.
sub counted {
    my ($status, $prefix, $counter) = @_;
    my $upstreams = $status->json->{upstreams};
    my ($kind, $reason) = split ' ', $counter;
    return sum0 map { ($reason ? $_->{$kind}{$reason} : $_->{$kind}) // 0 } map { $upstreams->{$_} } grep { /^\Q$prefix\E/ } keys %$upstreams;
}

1;
