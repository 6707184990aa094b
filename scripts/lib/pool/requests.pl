#!/usr/bin/perl
# requests.pl PORT SERVERS-FILE [204]: sends one request after the other to 127.0.0.1:PORT, on one connection, for the peers
# whose numbers come on standard input (the first `server` line is number 0). Prints how many went over a connection
# that the peer had seen before. An answer from another peer ends it with an error. With 204 they ask for an answer that
# says nothing, and nothing is printed.

use strict;
use warnings;

use Compress::Zlib qw(crc32);
use IO::Socket::INET;

my ($port, $file, $small) = @ARGV;
open my $list, '<', $file or die "$file: $!\n";
my @servers = map { /^server (.*);$/ ? $1 : () } <$list>;

# nginx's `hash` takes 15 bits of the key's CRC-32 modulo the number of servers. Numbers are tried as keys until each
# server has one, all of the same length.
my (@keys, $found);
for (my $key = 0, $found = 0; $found < @servers; $key++) {
    my $text   = sprintf '%06d', $key;
    my $server = ((crc32($text) >> 16) & 0x7fff) % @servers;
    next if defined $keys[$server];
    $keys[$server] = $text;
    $found++;
}

my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@\n";
my $reused = 0;
alarm 240;
while (my $number = <STDIN>) {
    chomp $number;
    my $uri = $small ? "/204?key=$keys[$number]" : "/?key=$keys[$number]";
    syswrite $socket, "GET $uri HTTP/1.1\r\nHost: a\r\n\r\n" or die "cannot send: $!\n";
    if ($small) {
        read_head() =~ m{^HTTP/1\.1 204 } or die "the request failed\n";
        next;
    }
    my ($peer, $requests) = read_answer() =~ /^(\S+) (\d+)$/ or die "not an answer of a peer\n";
    $peer eq $servers[$number] or die "asked for $servers[$number], $peer answered\n";
    $reused++ if $requests > 1;
}
print "$reused\n" if !$small;

sub read_head {
    my $text = '';
    while ($text !~ /\r\n\r\n/) {
        sysread $socket, $text, 4096, length $text or die "the connection ended: $text\n";
    }
    return $text;
}

sub read_answer {
    my $text = '';
    while ($text !~ /^Content-Length: (\d+)\r\n.*?\r\n\r\n(.*)/ims || length $2 < $1) {
        sysread $socket, $text, 4096, length $text or die "the connection ended: $text\n";
    }
    $text =~ m{^HTTP/1\.1 200 } or die "the request failed: $text\n";
    return $text =~ s/.*?\r\n\r\n//sr;
}
