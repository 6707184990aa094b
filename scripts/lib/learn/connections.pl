#!/usr/bin/perl
# connections.pl ADDRESS..: counts the connections that are opened from these local addresses, as long as it is not stopped. It looks at the
# kernel's table ten times a second, in which a connection stays for a while after its close. Says "ready" when it has begun; then
# prints on SIGTERM "ADDRESS PORT NUMBER" for each port that they lead to. IPv4.

use strict;
use warnings;

use Socket qw(inet_aton);
use Time::HiRes qw(sleep);

# The kernel writes addresses as numbers in its own byte order.
my %address = map { sprintf('%08X', unpack 'L', inet_aton($_)) => $_ } @ARGV;
my (%known, %opened);
my $stopped = 0;
$SIG{TERM} = sub { $stopped = 1 };
$| = 1;
look(sub { $known{$_[0]} = 1 });
print "ready\n";
until ($stopped) {
    sleep 0.1;
    look(sub { $opened{$_[1]}++ if !$known{$_[0]}++ });
}
print "$_ $opened{$_}\n" for sort keys %opened;

# look DO: with each connection, seen from either end, and with where it leads to.
sub look {
    my ($do) = @_;
    open my $table, '<', '/proc/net/tcp' or die "/proc/net/tcp: $!\n";
    while (my $line = <$table>) {
        my (undef, $local, $remote, $state) = split ' ', $line;
        next if $state eq '0A' || $state eq 'st';
        for my $ends ([$local, $remote], [$remote, $local]) {
            my ($from, $port) = split /:/, $ends->[0];
            my $to = (split /:/, $ends->[1])[1];
            $do->("$from:$port $to", $address{$from} . ' ' . hex $to) if $address{$from};
        }
    }
}
