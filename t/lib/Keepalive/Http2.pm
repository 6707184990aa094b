package Keepalive::Http2;

# A small HTTP/2 server for gRPC and the like, which speaks when it is not asked. Every answer names the connection that
# carried it, and the number of the request on it.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(time);

use Keepalive::Setup;

use constant { DATA => 0, HEADERS => 1, SETTINGS => 4, PING => 6, END_STREAM => 1, ACK => 1, END_HEADERS => 4 };

# A frame (RFC 9113, section 4.1).
sub frame {
    my ($type, $flags, $stream, $payload) = @_;
    return substr(pack('N', length $payload), 1) . pack('C C N', $type, $flags, $stream) . $payload;
}

# A header field without indexing and without compression (RFC 7541, section 6.2.2).
sub field { my ($name, $value) = @_; return pack 'C C/a C/a', 0, $name, $value }

# A whole answer; 0x88 is ":status: 200".
sub answer {
    my ($stream, $body) = @_;
    return frame(HEADERS, END_HEADERS, $stream, "\x88" . field('content-type', 'application/grpc'))
        . frame(DATA, 0, $stream, $body)
        . frame(HEADERS, END_HEADERS | END_STREAM, $stream, field('grpc-status', '0'));
}

# Keepalive::Http2->start($bytes): sends them 100 ms after each answer; undef stands for closing the connection.
sub start {
    my ($class, $bytes) = @_;
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => free_port(), Listen => 50, ReuseAddr => 1)
        or die "$!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
        $SIG{PIPE} = 'IGNORE';
        serve($socket, $bytes, getppid);
        POSIX::_exit(0);
    }
    return bless { pid => $pid, owner => $$, port => $socket->sockport }, $class;
}

sub serve {
    my ($listener, $bytes, $parent) = @_;
    my $select = IO::Select->new($listener);
    my ($serial, %state) = 0;
    while (getppid == $parent) {
        for my $socket ($select->can_read(0.02)) {
            if ($socket == $listener) {
                my $new = $listener->accept or next;
                $select->add($new);
                $state{$new} = { number => ++$serial, requests => 0, buffer => '' };
                syswrite $new, frame(SETTINGS, 0, 0, '');
                next;
            }
            my $state = $state{$socket};
            if (!sysread $socket, $state->{buffer}, 65536, length $state->{buffer}) {
                $select->remove($socket);
                delete $state{$socket};
                close $socket;
                next;
            }
            my $speaks = !defined $bytes || $bytes ne '';
            $state->{speak} = [time + 0.1, $socket] if read_frames($socket, $state) && $speaks;
        }
        for my $state (grep { $_->{speak} && $_->{speak}[0] <= time } values %state) {
            my (undef, $socket) = @{ delete $state->{speak} };
            defined $bytes ? syswrite $socket, $bytes : shutdown $socket, 2;
        }
    }
}

# Answers what is complete; returns whether there was a request.
sub read_frames {
    my ($socket, $state) = @_;
    my $answered = 0;
    $state->{buffer} =~ s/^PRI \* HTTP\/2\.0\r\n\r\nSM\r\n\r\n//;
    while (length $state->{buffer} >= 9 && $state->{buffer} !~ /^PRI/) {
        my ($high, $low, $type, $flags, $stream) = unpack 'C n C C N', $state->{buffer};
        my $length = $high << 16 | $low;
        last if length $state->{buffer} < 9 + $length;
        substr $state->{buffer}, 0, 9 + $length, '';
        syswrite $socket, frame(SETTINGS, ACK, 0, '') if $type == SETTINGS && !($flags & ACK);
        # Streams are opened by the client with odd numbers, in order; only what is open can have data (RFC 9113, section 5.1).
        my $is_new = $type == HEADERS && $stream % 2 && $stream > ($state->{last} // 0);
        $state->{last} = $state->{open} = $stream if $is_new;
        if ($type == HEADERS && !$is_new || $type == DATA && $stream != ($state->{open} // 0)) {
            shutdown $socket, 2;
            return 0;
        }
        next unless ($type == HEADERS || $type == DATA) && $flags & END_STREAM;
        delete $state->{open};
        my $number = ++$state->{requests};
        syswrite $socket, answer($stream, "connection $state->{number} request $number");
        $answered = 1;
    }
    return $answered;
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    kill KILL => $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
