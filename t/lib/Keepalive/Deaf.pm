package Keepalive::Deaf;

# A server on which no connection is ever established: its accept queue is full, so the kernel drops the packets that would
# open another one.

use strict;
use warnings;

use IO::Socket::INET;

sub start {
    my ($class) = @_;
    # (Perl turns a backlog of 0 into 5.)
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "listen: $!";
    my $self = bless { listener => $listener, port => $listener->sockport, waiting => [] }, $class;
    for (1 .. 20) {
        return $self unless $self->takes_one;
    }
    die "the kernel lets everybody in\n";
}

sub port { $_[0]{port} }

sub address { "127.0.0.1:$_[0]{port}" }

# Whether one more connection is established. It stays open.
sub takes_one {
    my ($self) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Blocking => 0) or die "connect: $!";
    push @{ $self->{waiting} }, $socket;
    my $writable = '';
    vec($writable, fileno $socket, 1) = 1;
    return select undef, $writable, undef, 0.2;
}

1;
