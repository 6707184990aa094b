#!/usr/bin/perl
# clients.pl NAME=VALUE..: clients of the nginx of each kind, at 127.0.0.1; kinds is KIND:PORT,.. . So many clients of each kind send so
# many requests, one after the other, to an upstream of their own, /server/NUMBER/phase: the first one at any time within a second, and the
# others when the connection to the server has been idle for a time between low and high (ms). With tick (ms, within a second) the
# server closes connections once a second: then each is sent within 3 ms of the first such moment after low. The moment is looked
# for again all the time, by connections of scouts to the server itself, at scout. The method is POST, or POST and GET in turn
# (both). Prints how many answers had which status, without those of each client's first request: "KIND STATUS NUMBER".

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use IO::Select;
use List::Util qw(min);
use Learn qw(now connect_to request answer complete more);

my %option = (requests => 1, method => 'POST', low => 0, high => 0, tick => '', map { split /=/, $_, 2 } @ARGV);
$SIG{PIPE} = 'IGNORE';
my $begin = now();
my $tick = $option{tick} eq '' ? undef : $option{tick} / 1000;
my (%by_handle, %statuses);
my $select = IO::Select->new;
my @waiting;
for my $number (0 .. $option{clients} - 1) {
    for my $kind (split /,/, $option{kinds}) {
        my ($name, $port) = split /:/, $kind;
        push @waiting, { kind => $name, port => $port, number => $number, sent => 0, due => $begin + rand };
    }
}
my $running = @waiting;
push @waiting, map { { scout => 1, due => $begin + rand 1 } } 1 .. (defined $tick ? 10 : 0);

while ($running) {
    my $now = now();
    my @due = grep { $_->{due} <= $now } @waiting;
    if (@due) {
        @waiting = grep { $_->{due} > $now } @waiting;
        $_->{scout} ? start_scout($_) : start_request($_) for @due;
        next;
    }
    my $wait = min(1, map { $_->{due} - $now } @waiting);
    readable($by_handle{fileno $_}) for $select->can_read($wait);
}
print "$_ $statuses{$_}\n" for sort keys %statuses;

sub start_request {
    my ($client) = @_;
    open_client($client, $client->{port}) if !$client->{handle};
    my $method = $option{method} eq 'both' && $client->{sent} % 2 ? 'GET' : 'POST';
    my $id = "$option{phase}-$client->{kind}-$client->{number}-$client->{sent}";
    $client->{bytes} = '';
    request($client->{handle}, $method, "/$option{server}/$client->{number}/$option{phase}", $id);
    $client->{asked} = 1;
}

# A scout's connection is used once, and its close is awaited.
sub start_scout {
    my ($scout) = @_;
    open_client($scout, $option{scout});
    request($scout->{handle}, 'POST', '/', 'scout');
    $scout->{bytes} = '';
    answer($scout->{handle});
}

sub open_client {
    my ($client, $port) = @_;
    my $handle = $client->{handle} = connect_to($port);
    $by_handle{fileno $handle} = $client;
    $select->add($handle);
}

sub readable {
    my ($client) = @_;
    my $read = more($client->{handle}, \$client->{bytes});
    return closed($client) if !$read;
    my ($status) = complete($client->{bytes}) or return;
    $client->{asked} = 0;
    $statuses{"$client->{kind} $status"}++ if $client->{sent};
    next_request($client);
}

sub closed {
    my ($client) = @_;
    my $now = now();
    delete $by_handle{fileno $client->{handle}};
    $select->remove($client->{handle});
    close delete $client->{handle};
    if ($client->{scout}) {
        $tick = $now - int $now;
        $client->{due} = $now + rand 0.5;
        push @waiting, $client;
    }
    # nginx closes connections of clients only after an error.
    elsif ($client->{asked}) {
        $client->{asked} = 0;
        $statuses{"$client->{kind} none"}++ if $client->{sent};
        next_request($client);
    }
}

sub next_request {
    my ($client) = @_;
    if (++$client->{sent} >= $option{requests}) {
        $running--;
        return;
    }
    my $now = now();
    $client->{due} = defined $tick ? next_tick($now + $option{low} / 1000) - 0.003 + rand 0.006
        : $now + ($option{low} + rand($option{high} - $option{low})) / 1000;
    push @waiting, $client;
}

# The first moment after this one at which the server closes.
sub next_tick {
    my ($time) = @_;
    my $next = int($time) + $tick;
    $next += 1 if $next < $time;
    return $next;
}
