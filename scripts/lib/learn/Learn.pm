# What ages.pl and clients.pl share: one request over a connection to 127.0.0.1.
package Learn;

use strict;
use warnings;

use Exporter qw(import);
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT_OK = qw(now connect_to request answer complete more);

# Seconds. Servers that look once per second do so when a second of this clock begins, if any.
sub now { return clock_gettime(CLOCK_MONOTONIC) }

sub connect_to {
    my ($port) = @_;
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@\n";
    setsockopt $client, IPPROTO_TCP, TCP_NODELAY, 1;
    return $client;
}

# request CLIENT METHOD PATH ID: a POST has a short body.
sub request {
    my ($client, $method, $path, $id) = @_;
    my $body = $method eq 'POST' ? 'some=data' : '';
    my $length = $body eq '' ? '' : 'Content-Length: ' . length($body) . "\r\n";
    return syswrite $client, "$method $path HTTP/1.1\r\nHost: localhost\r\nX-Id: $id\r\n$length\r\n$body";
}

# answer CLIENT: reads one; returns its status, or '' when there is none, and whether the connection can be used again.
sub answer {
    my ($client) = @_;
    my ($bytes, @complete) = ('');
    until (@complete = complete($bytes)) {
        more($client, \$bytes) or return ('', 0);
    }
    return @complete;
}

# complete BYTES: the same, or nothing when the answer goes on.
sub complete {
    my ($bytes) = @_;
    my ($head, $body) = split /\r\n\r\n/, $bytes, 2;
    defined $body or return;
    my ($status) = $head =~ m{^HTTP/1\.\d (\d+)} or return ('', 0);
    if ($head =~ /^Transfer-Encoding: *chunked/im) {
        $body =~ /(?:^|\r\n)0\r\n\r\n$/ or return;
    }
    elsif ($head =~ /^Content-Length: *(\d+)/im) {
        length $body >= $1 or return;
    }
    return ($status, $head !~ /^Connection: *close/im && $head =~ m{^HTTP/1\.1});
}

# more CLIENT, BYTES: false at the end.
sub more {
    my ($client, $bytes) = @_;
    return sysread $client, $$bytes, 65_536, length $$bytes;
}

1;
