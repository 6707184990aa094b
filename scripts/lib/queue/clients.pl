#!/usr/bin/perl
# clients.pl PORT NUMBER: opens that many connections to 127.0.0.1:PORT, sends a request on each, says "ready", and keeps
# them open.

use strict;
use warnings;

use IO::Socket::INET;

my ($port, $number) = @ARGV;
my @clients;
for (1 .. $number) {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@\n";
    syswrite $client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" or die "cannot send: $!\n";
    push @clients, $client;
}
syswrite STDOUT, "ready\n";
sleep 600;
