#!/usr/bin/perl
# beside.pl PORT PREFIX KIND: clients that keep streams busy at 127.0.0.1:PORT, as long as they are not stopped. "ready" says that
# they have begun. KIND: "stalled" (three downloads that nobody reads), "unread" (three uploads that the server does not
# read), "slow" (three downloads, of which 16 KB are read ten times a second).

use strict;
use warnings;

use IO::Socket::INET;
use Time::HiRes qw(sleep);

my ($port, $prefix, $kind) = @ARGV;
alarm 600;
$SIG{PIPE} = 'IGNORE';
my @clients;
for my $number (1 .. 3) {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@\n";
    my $request = $kind eq 'unread'
        ? "POST $prefix?credit=connection&fault=hang HTTP/1.1\r\nContent-Length: 50000000\r\n"
        : "GET $prefix?len=500000000 HTTP/1.1\r\n";
    syswrite $client, "${request}Host: localhost\r\n\r\n" or die "cannot send: $!\n";
    $client->blocking(0);
    push @clients, $client;
}
my $rounds = 0;
while (1) {
    for my $client (@clients) {
        syswrite $client, 'u' x 65_536 if $kind eq 'unread';
        sysread $client, my $bytes, 16_384 if $kind eq 'slow';
    }
    syswrite STDOUT, "ready\n" if ++$rounds == 10;
    sleep 0.1;
}
