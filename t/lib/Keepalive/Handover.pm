package Keepalive::Handover;

# For the files about connections that workers hand over to each other: clients of one worker, reloads, and the counters.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(sleep time);

use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

our @EXPORT = qw(handover_nginx clients_of ask is_late in_turn ask_all settled reload_to_end is_gone handed become agree idle_in);

# In seconds. A connection that has been idle for more than 50 ms is handed over when another worker asks for it. That worker
# waits for 5 ms: on a busy machine this can be too short.
my ($long_enough, $patience) = (0.08, 0.004);

# handover_nginx($port, { name => 'inside of upstream name' }, options of queue_nginx)
#
# The answer has $upstream_keepalive_status in the header X-Told. /status is the status page. With reuseport, which is the
# default here, each worker has clients of its own.
sub handover_nginx {
    my ($port, $upstreams, %options) = @_;
    my $inside = 'add_header X-Told $upstream_keepalive_status always; ' . (delete $options{inside} // '');
    my $locations = "location = /status { access_log off; keepalive_status; }\n" . (delete $options{locations} // '');
    return queue_nginx($port, $upstreams, workers => 2, listen => 'reuseport', log_level => 'warn', %options,
        inside => $inside, locations => $locations);
}

# One connection to each worker, as ask() needs it; in the order of $nginx->workers.
sub clients_of {
    my ($port, $nginx) = @_;
    return map { { port => $port, pid => $_, socket => (connections_to($port, $_, 1))[0] } } $nginx->workers;
}

# The answer to a request over one of these connections, which stays open; or over a new connection to this port. The answer
# must be short. Its `told` is the value of $upstream_keepalive_status, `took` the time in seconds.
sub ask {
    my ($client, $path, %options) = @_;
    my $begun = time;
    my $answer;
    if (ref $client) {
        my $request = begin($client->{port}, $path, %options, keep_alive => 1, over => $client->{socket});
        $answer = Keepalive::Client::parse($request->receive);
    }
    else {
        $answer = get($client, $path, %options);
    }
    return { %$answer, took => time - $begun, told => $answer->{headers}{'x-told'} // '-' };
}

# Whether another worker may have been asked for a connection, and has answered too late because the machine was busy.
sub is_late { my ($answer) = @_; return $answer->{told} eq 'MISS' && $answer->{took} > $patience }

# in_turn(sub { .. }, 'MISS TAKEN', 'title', [$client, '/path', %options], [$other, '/path', %options])
#
# Tests what $upstream_keepalive_status is for these requests, one after the other, with a pause before each. An answer whose
# status is not 200 is written as '504 TAKEN'. Where TAKEN is expected and the machine was too slow, all is done once more.
# Before that, the block of code closes all idle connections.
sub in_turn {
    my ($afresh, $expected, $title, @requests) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @told;
    for my $attempt (1 .. 5) {
        my @answers = map { settled(); ask(@$_) } @requests;
        @told = map { $_->{status} == 200 ? $_->{told} : "$_->{status} $_->{told}" } @answers;
        my @expected = $expected =~ /(?:\d+ )?\S+/g;
        last unless grep { $expected[$_] =~ /TAKEN$/ && is_late($answers[$_]) } 0 .. $#answers;
        $afresh->();
    }
    return is "@told", $expected, $title;
}

# Sends so many requests at once, each of which takes its server some time, and returns their statuses. Afterwards there is an
# idle connection for each, if there is room.
sub ask_all {
    my ($port, $path, $number, $delay) = @_;
    my $mark = $path =~ /\?/ ? '&' : '?';
    return statuses(map { begin($port, $path . $mark . 'delay=' . ($delay // 100)) } 1 .. $number);
}

# A pause, after which connections that are idle can be asked for.
sub settled { sleep $long_enough }

# Whether these processes are gone, within the time of wait_for, and their parent knows it.
sub is_gone {
    my (@pids) = @_;
    return wait_for { !grep { -e "/proc/$_" } @pids };
}

# Reloads, and waits until the workers of the former configuration have ended.
sub reload_to_end {
    my ($nginx) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @old = $nginx->reload;
    return ok is_gone(@old), 'the old workers are gone';
}

# The connections that each of these processes has to a port on 127.x.x.x, as a list of numbers.
sub idle_in {
    my ($port, @pids) = @_;
    return map { established($port, $_) } @pids;
}

# The counters of what was handed over, that are not zero: 'given 2, taken 1, in_transit 0, dropped limit 1'.
sub handed {
    my ($upstream) = @_;
    my $handover = $upstream->{handover};
    my @told = map { $upstream->{$_} ? "$_ $upstream->{$_}" : () } qw(given taken);
    push @told, "in_transit $handover->{in_transit}" if $handover->{in_transit};
    push @told, map { $handover->{dropped}{$_} ? "dropped $_ $handover->{dropped}{$_}" : () } sort keys %{ $handover->{dropped} };
    return join(', ', @told) || 'nothing';
}

# Tests that the counters of an upstream become these.
sub become {
    my ($status, $upstream, $expected, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $handed;
    wait_for { ($handed = handed($status->json->{upstreams}{$upstream})) eq $expected };
    return is $handed, $expected, $title;
}

# Tests that there are no contradictions in the counters, after so many requests were lost while they waited in a worker that was
# killed: their waits have neither ended nor do they last.
sub agree {
    my ($status, $title, $lost) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @found;
    wait_for {
        my $json = $status->json;
        for my $queue (grep { $_ } map { $_->{queue} } values %{ $json->{upstreams} }) {
            $queue->{wait}{count} += $lost // 0 if $queue->{wait}{count} + $queue->{size} < $queue->{requests};
        }
        @found = grep { !/: wait / } Keepalive::Status::contradictions($json);
        !@found;
    };
    return is join("\n", @found), '', $title;
}

1;
