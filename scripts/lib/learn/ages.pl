#!/usr/bin/perl
# ages.pl PORT CONNECTIONS LIMIT BUSY: at which idle age does the server at 127.0.0.1:PORT close a connection? Sends one POST over each of
# the connections, which begin at any time within a second, reads its answer, and waits for the close, for at most three
# seconds more than LIMIT (ms). Meanwhile another client sends BUSY requests a second. Prints for each connection: the age in ms; the
# time of the close within its second, in ms; and "close", "reset", "data" (something was sent before the close) or "open" (it
# was not closed).

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use IO::Select;
use Learn qw(now connect_to request answer);

my ($port, $connections, $limit, $busy) = @ARGV;
$SIG{PIPE} = 'IGNORE';
# The first request may take a server long.
warm_up();
my $begin = now();
my @starts = sort { $a <=> $b } map { $begin + rand } 1 .. $connections;
my $last = $begin + 1 + $limit / 1000 + 3;
my ($next_busy, $busy_client) = ($begin, undef);
my %idle_since;
my $select = IO::Select->new;
while ((@starts || %idle_since) && now() < $last) {
    start(shift @starts) while @starts && $starts[0] <= now();
    if ($busy && $next_busy <= now()) {
        keep_busy();
        $next_busy += 1 / $busy;
    }
    my $until = $last;
    for my $time ($busy ? $next_busy : (), @starts ? $starts[0] : ()) {
        $until = $time if $time < $until;
    }
    my $wait = $until - now();
    closed($_) for $select->can_read($wait > 0 ? $wait : 0);
}
print "0 0 open\n" for keys %idle_since;

sub warm_up {
    my $client = connect_to($port);
    request($client, 'POST', '/', 'first');
    answer($client);
    return;
}

sub start {
    my $client = connect_to($port);
    request($client, 'POST', '/', "age-$port-" . scalar(@starts));
    my ($status) = answer($client);
    die "the answer is $status\n" if $status !~ /^2/;
    $idle_since{fileno $client} = now();
    $select->add($client);
}

sub closed {
    my ($client) = @_;
    my $now = now();
    my $read = sysread $client, my $bytes, 4096;
    my $what = !defined $read ? 'reset' : $read ? 'data' : 'close';
    my $since = delete $idle_since{fileno $client};
    $select->remove($client);
    close $client;
    printf "%.2f %.2f %s\n", ($now - $since) * 1000, ($now - int $now) * 1000, $what;
}

sub keep_busy {
    $busy_client //= connect_to($port);
    request($busy_client, 'POST', '/', 'busy');
    my ($status, $keep) = answer($busy_client);
    undef $busy_client if !$status || !$keep;
}
