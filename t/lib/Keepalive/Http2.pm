package Keepalive::Http2;

# A small HTTP/2 server, also for gRPC, which sends frames without a request. Every answer names its connection and the number
# of the request on it.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(sleep time);

use Keepalive::Setup;

use constant { DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6, GOAWAY => 7 };
use constant { END_STREAM => 1, ACK => 1, END_HEADERS => 4, CANCEL => 8, REFUSED_STREAM => 7 };

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

# Keepalive::Http2->start($bytes): sends these bytes 100 ms after each answer; undef closes the connection instead.
#
# With `refuse`, it does not process requests from number `from` of a connection on (of every second connection, with
# `every => 2`), and says so in one of these ways (`how`): refused, goaway (which also closes the connection), settings (before
# that), twice (GOAWAY, the first one without a limit). Or it resets the stream for another reason (cancel), answers after a
# GOAWAY (answered), or answers with status 500 (broken). It does so `early`, when the header has arrived; or in single bytes
# (`pieces`). The file `record` gets a line for each action.
sub start {
    my ($class, $bytes, %options) = @_;
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => free_port(), Listen => 50, ReuseAddr => 1)
        or die "$!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
        $SIG{PIPE} = 'IGNORE';
        serve($socket, $bytes, getppid, %options);
        POSIX::_exit(0);
    }
    return bless { pid => $pid, owner => $$, port => $socket->sockport }, $class;
}

sub serve {
    my ($listener, $bytes, $parent, %options) = @_;
    my $select = IO::Select->new($listener);
    my ($serial, %state) = 0;
    while (getppid == $parent) {
        for my $socket ($select->can_read(0.02)) {
            if ($socket == $listener) {
                my $new = $listener->accept or next;
                $select->add($new);
                my $refuse = $options{refuse};
                undef $refuse if $refuse && $serial % ($refuse->{every} || 1);
                setsockopt $new, IPPROTO_TCP, TCP_NODELAY, 1;
                $state{$new} = { number => ++$serial, requests => 0, buffer => '', refuse => $refuse, record => $options{record} };
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

# Answers all complete requests; returns whether there was one.
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
        my $is_whole = ($type == HEADERS || $type == DATA) && $flags & END_STREAM;
        my $refuse = $state->{refuse};
        my $is_due = $refuse && $refuse->{early} ? $type == HEADERS : $is_whole;
        if ($refuse && $is_due && $state->{requests} + 1 >= $refuse->{from}) {
            $state->{requests}++;
            return 0 if !refuse($socket, $state, $stream);
            delete $state->{open} if $is_whole;
            next;
        }
        next unless $is_whole;
        delete $state->{open};
        note_down($state, 'answered');
        my $number = ++$state->{requests};
        syswrite $socket, answer($stream, "connection $state->{number} request $number");
        $answered = 1;
    }
    return $answered;
}

sub note_down {
    my ($state, $what) = @_;
    return if !defined $state->{record};
    open my $out, '>>', $state->{record} or die "$state->{record}: $!";
    print $out "$what by connection $state->{number}\n";
    close $out;
}

# Refuses a stream in the chosen way; returns whether the connection stays open.
sub refuse {
    my ($socket, $state, $stream) = @_;
    my $how = $state->{refuse}{how};
    note_down($state, $how eq 'answered' ? 'answered' : 'refused');
    my $goaway = sub { frame(GOAWAY, 0, 0, pack 'NN', @_) };
    my $last = $stream > 1 ? $stream - 2 : 0;
    my %bytes = (
        goaway   => $goaway->($last, 0),
        settings => frame(SETTINGS, 0, 0, pack 'nN', 3, 50) . frame(PING, 0, 0, 'p' x 8) . $goaway->($last, 0),
        twice    => $goaway->(0x7fffffff, 0) . frame(PING, 0, 0, 'p' x 8) . $goaway->($last, 0),
        refused  => frame(RST_STREAM, 0, $stream, pack 'N', REFUSED_STREAM),
        cancel   => frame(RST_STREAM, 0, $stream, pack 'N', CANCEL),
        broken   => frame(HEADERS, END_HEADERS | END_STREAM, $stream, "\x8e" . field('content-type', 'application/grpc')),
        answered => $goaway->($stream, 0) . answer($stream, 'answered'),
    );
    for my $piece ($state->{refuse}{pieces} ? $bytes{$how} =~ /./gs : $bytes{$how}) {
        syswrite $socket, $piece;
        sleep 0.005 if $state->{refuse}{pieces};
    }
    return 1 if $how =~ /^(?:refused|cancel|broken)$/;
    shutdown $socket, 1;
    return 0;
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    kill KILL => $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
