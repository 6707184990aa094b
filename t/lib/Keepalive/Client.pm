package Keepalive::Client;

# A small HTTP client: one connection per request, and several requests at the same time.

use strict;
use warnings;

use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;

our @EXPORT = qw(get begin);

# Sends a request and waits for the answer: get($port, '/path', method => 'POST', body => 'x').
sub get { begin(@_)->finish }

# Sends a request and returns at once; ->finish gives the answer. Further options: headers (a hash, or a list of
# lines), chunks (a list, instead of a body), content_length (instead of the body's), keep_alive (does not ask the server to close), timeout
# (seconds), over (the connection of an earlier request, instead of a new one), socket (the path
# of a unix socket, instead of a port).
sub begin {
    my ($port, $path, %options) = @_;
    my $method  = $options{method} || 'GET';
    my $body    = $options{body};
    my $headers = $options{headers} || {};
    my $seconds = $options{timeout} || 10;

    my $socket = $options{over};
    $socket ||= $options{socket} ? IO::Socket::UNIX->new(Peer => $options{socket})
        : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => $seconds);
    my $self = bless { socket => $socket, seconds => $seconds, method => $method }, __PACKAGE__;
    return $self unless $socket;

    my $request = "$method $path HTTP/1.1\r\nHost: localhost\r\n";
    $request .= "Connection: close\r\n" unless $options{keep_alive};
    $request .= 'Content-Length: ' . ($options{content_length} // length $body) . "\r\n"
        if defined $body || defined $options{content_length};
    my @lines = ref $headers eq 'ARRAY' ? @$headers : map { "$_: $headers->{$_}" } sort keys %$headers;
    $request .= "$_\r\n" for @lines;
    if ($options{chunks}) {
        $request .= "Transfer-Encoding: chunked\r\n";
        $body = join '', map { sprintf "%x\r\n%s\r\n", length, $_ } @{ $options{chunks} }, '';
    }
    $socket->autoflush(1);
    local $SIG{PIPE} = 'IGNORE';
    print $socket "$request\r\n", $body // '';
    return $self;
}

# The answer as { status, headers (names in lower case), lines (all headers, as they came), body }; status 0 means that
# there was no answer.
sub finish {
    my ($self) = @_;
    my $socket = delete $self->{socket} or return { status => 0, headers => {}, lines => [], body => '' };
    my $select = IO::Select->new($socket);
    my $bytes = '';
    while ($select->can_read($self->{seconds})) {
        my $read = sysread $socket, $bytes, 65536, length $bytes;
        last unless $read;
    }
    close $socket;
    return parse($bytes);
}

# Sends more of the request.
sub more {
    my ($self, $bytes) = @_;
    local $SIG{PIPE} = 'IGNORE';
    syswrite $self->{socket}, $bytes;
}

# Waits for more bytes, and returns them.
sub receive {
    my ($self) = @_;
    my $bytes = '';
    sysread $self->{socket}, $bytes, 65536 if IO::Select->new($self->{socket})->can_read($self->{seconds});
    return $bytes;
}

# Closes the connection without waiting for the answer.
sub abort {
    my ($self) = @_;
    close delete $self->{socket};
}

sub parse {
    my ($bytes) = @_;
    my ($head, $body) = split /\r\n\r\n/, $bytes, 2;
    my ($status_line, @lines) = split /\r\n/, $head // '';
    my ($status) = ($status_line // '') =~ m{^HTTP/1\.[01] (\d{3})};
    my %headers = map { /^([^:]+):\s*(.*)$/ ? (lc $1 => $2) : () } @lines;
    $body //= '';
    my $complete = defined $status;
    if (($headers{'transfer-encoding'} // '') eq 'chunked') {
        ($body, $complete) = unchunk($body);
    }
    elsif (defined $headers{'content-length'}) {
        $complete &&= length $body == $headers{'content-length'};
    }
    return { status => $status // 0, headers => \%headers, lines => \@lines, body => $body, complete => $complete };
}

sub unchunk {
    my ($bytes) = @_;
    my $body = '';
    while ($bytes =~ s/^([0-9a-fA-F]+)\r\n//) {
        my $size = hex $1;
        return ($body, 1) if $size == 0;
        $body .= substr $bytes, 0, $size, '';
        $bytes =~ s/^\r\n// or last;
    }
    return ($body, 0);
}

1;
