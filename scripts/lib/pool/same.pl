#!/usr/bin/perl
# same.pl PORT NUMBER: sends the request on standard input so often to 127.0.0.1:PORT, on one connection, one after the other.
# An answer that is no success ends it with an error.

use strict;
use warnings;

use IO::Socket::INET;

my ($port, $number) = @ARGV;
my $request = do { local $/; <STDIN> };

my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@\n";
alarm 240;
for (1 .. $number) {
    syswrite $socket, $request or die "cannot send: $!\n";
    my $text = '';
    until (is_complete($text)) {
        sysread $socket, $text, 4096, length $text or die "the connection ended: $text\n";
    }
    $text =~ m{^HTTP/1\.1 2} or die "the request failed: $text\n";
}

# An answer to 204 has no length.
sub is_complete {
    my ($head, $body) = $_[0] =~ /^(.*?\r\n\r\n)(.*)/s or return 0;
    return length $body >= ($head =~ /^Content-Length: (\d+)/im ? $1 : 0);
}
