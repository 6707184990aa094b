#!/usr/bin/perl
# link.pl DELAY: a link between two network namespaces, on which each packet takes so many milliseconds; see
# t/lib/Keepalive/Link.pm. Prints the ids of a process at the near end and of one at the far end, followed by "ready", and lasts
# until it is stopped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../../../t/lib";
use Keepalive::Link;

if (my $missing = Keepalive::Link::enter()) {
    print "$missing\n";
    exit 1;
}
# A sleep that is ended by the signal, so that the link is taken down.
$SIG{TERM} = sub { exit };
my $link = Keepalive::Link->start(delay => $ARGV[0]);
if (!$link) {
    print "the kernel permits no tun device\n";
    exit 1;
}
$| = 1;
print "$$\n$link->{far}\nready\n";
sleep 3600;
