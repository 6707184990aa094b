package Keepalive::Names;

# A name server with one list of addresses, which is its answer to every name, valid for one second. It runs until the object
# is destroyed.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();

use Keepalive::Setup;

my $serial = 0;

# Keepalive::Names->start('127.0.0.1', '127.0.0.2')
sub start {
    my ($class, @addresses) = @_;
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp') or die "udp: $!";
    my $self = bless { socket => $socket, owner => $$, file => work_dir() . '/addresses' . ++$serial }, $class;
    $self->now_at(@addresses);
    my $parent = $$;
    $self->{pid} = fork // die "fork: $!";
    if (!$self->{pid}) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
        # The name server ends when its parent dies.
        while (getppid == $parent) {
            my $readable = '';
            vec($readable, fileno $socket, 1) = 1;
            select $readable, undef, undef, 1 or next;
            my $from = $socket->recv(my $query, 512) or next;
            $socket->send($self->answer($query), 0, $from);
        }
        POSIX::_exit(0);
    }
    return $self;
}

sub port { $_[0]{socket}->sockport }

# From now on these addresses are the answer.
sub now_at {
    my ($self, @addresses) = @_;
    open my $out, '>', "$self->{file}.new" or die "$self->{file}: $!";
    print $out "@addresses";
    close $out;
    rename "$self->{file}.new", $self->{file} or die "$self->{file}: $!";
}

sub answer {
    my ($self, $query) = @_;
    my ($id, $question) = unpack 'a2 x10 a*', $query;
    my ($name) = $question =~ /^((?:[^\0].*?)?\0)/s;
    my $type = unpack 'n', substr $question, length $name, 2;
    my @addresses;
    if ($type == 1) {
        open my $in, '<', $self->{file} or die "$self->{file}: $!";
        @addresses = split ' ', <$in> // '';
    }
    my $answer = $id . pack('n5', 0x8180, 1, scalar @addresses, 0, 0) . $name . pack('n2', $type, 1);
    $answer .= pack('n3 N n C4', 0xc00c, 1, 1, 1, 4, split /\./) for @addresses;
    return $answer;
}

sub DESTROY {
    my ($self) = @_;
    return if !$self->{pid} || $self->{owner} != $$;
    local ($?, $!);
    kill TERM => $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
