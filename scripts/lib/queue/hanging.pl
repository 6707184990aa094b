#!/usr/bin/perl
# hanging.pl: a server on a free port of all addresses of this machine, which it prints, followed by "ready". It takes every
# connection, and answers nothing.

use strict;
use warnings;

use IO::Socket::INET;

my $listener = IO::Socket::INET->new(LocalAddr => '0.0.0.0', Listen => 4096) or die "cannot listen: $@\n";
syswrite STDOUT, $listener->sockport . "\nready\n";
alarm 600;
my @taken;
while (my $connection = $listener->accept) {
    push @taken, $connection;
}
