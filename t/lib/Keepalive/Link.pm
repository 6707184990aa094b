package Keepalive::Link;

# A link with a delay between two network namespaces: the near one, in which the test and its nginx run, and the far one, for
# the server. Neither has another connection.
#
#   near: 198.18.7.1 -- tun -- a process that forwards each packet later -- tun -- far: 198.18.7.2
#
# (198.18.0.0/15 is for tests of network equipment, RFC 2544.)

use strict;
use warnings;

use Fcntl qw(O_RDWR);
use POSIX ();
use Time::HiRes qw(time);

our $NEAR = '198.18.7.1';
our $FAR = '198.18.7.2';

# From linux/if_tun.h.
use constant { TUNSETIFF => 0x400454ca, IFF_TUN => 1, IFF_NO_PI => 0x1000 };

# Restarts the test in a new network namespace. Returns the reason if that is not possible. To be called first, before the test
# has started or written anything.
sub enter {
    return if $ENV{KEEPALIVE_LINK};
    return 'not run by root' if $> != 0;
    for my $program (qw(unshare nsenter ip)) {
        return "there is no $program" unless grep { -x "$_/$program" } split(/:/, $ENV{PATH}), '/usr/sbin', '/sbin';
    }
    return 'there is no /dev/net/tun' unless -c '/dev/net/tun';
    return 'network namespaces are not permitted' if system("unshare --net true 2>/dev/null") != 0;
    $ENV{KEEPALIVE_LINK} = 1;
    $ENV{PATH} .= ':/usr/sbin:/sbin';
    exec 'unshare', '--net', $^X, (map { "-I$_" } @INC), $0, @ARGV or die "unshare: $!\n";
}

# Keepalive::Link->start(delay => 5): each packet takes this many milliseconds, a round trip twice as long. Returns nothing if the
# kernel does not permit it. With `watched => 1`, hold_ups() tells when packets took longer.
sub start {
    my ($class, %options) = @_;
    my $self = bless { owner => $$ }, $class;
    my ($near, $far) = map { tun($_) || return } qw(near0 far0);
    $self->{far} = child(sub { exec 'unshare', '--net', 'sleep', '600' or POSIX::_exit(1) });
    my $other = sub { readlink "/proc/$self->{far}/ns/net" };
    require Keepalive::Setup;
    Keepalive::Setup::wait_for(sub { ($other->() // '') ne readlink '/proc/self/ns/net' }) or return;
    my @far = $self->within;
    for my $command (
        ['ip', 'link', 'set', 'far0', 'netns', $self->{far}],
        ['ip', 'link', 'set', 'lo', 'up'],
        ['ip', 'address', 'add', "$NEAR/30", 'dev', 'near0'],
        ['ip', 'link', 'set', 'near0', 'txqueuelen', 10_000, 'up'],
        [@far, 'ip', 'link', 'set', 'lo', 'up'],
        [@far, 'ip', 'address', 'add', "$FAR/30", 'dev', 'far0'],
        [@far, 'ip', 'link', 'set', 'far0', 'txqueuelen', 10_000, 'up'],
    ) {
        system(@$command) == 0 or die "@$command failed\n";
    }
    $self->{hold_ups} = Keepalive::Setup::work_dir() . "/hold-ups$self->{far}" if $options{watched};
    $self->{forwarder} = child(sub { forward($near, $far, $options{delay} / 1000, $self->{hold_ups}) });
    return $self;
}

# The words that run a command at the far end.
sub within { ('nsenter', '-t', $_[0]{far}, '-n') }

# From now on all packets of the present connections are dropped, as by a gateway that has forgotten them.
sub forget { kill USR1 => $_[0]{forwarder}; select undef, undef, undef, 0.05 }

# How many connections the kernel at the far end has reset because they were closed with unread bytes: a request had arrived
# just before, and the server never sees it.
sub closed_unread {
    my ($self) = @_;
    open my $in, '<', "/proc/$self->{far}/net/netstat" or die "$!";
    my ($names, $values) = map { [split] } grep { /^TcpExt:/ } <$in>;
    my %counters;
    @counters{@$names} = @$values;
    return $counters{TCPAbortOnClose} // 0;
}

# The number of packets that the kernel has dropped at both ends, in both directions, as it does on an overloaded machine.
sub lost {
    my ($self) = @_;
    my $lost = 0;
    for my $pid ('self', $self->{far}) {
        open my $in, '<', "/proc/$pid/net/dev" or die "$!";
        for my $line (grep { /^\s*(?:near|far)0:/ } <$in>) {
            my (undef, @received_then_sent) = split ' ', $line;
            $lost += $_ for @received_then_sent[3, 11];
        }
    }
    return $lost;
}

# When packets took longer than they should, as they do on a busy machine: pairs of times, in seconds. What is shorter than 2 ms
# is not told.
sub hold_ups {
    my ($self) = @_;
    open my $in, '<', $self->{hold_ups} or return;
    return map { [split] } grep { /\n\z/ } <$in>;
}

sub tun {
    my ($name) = @_;
    sysopen my $device, '/dev/net/tun', O_RDWR or return;
    my $request = pack 'a16 s x22', $name, IFF_TUN | IFF_NO_PI;
    return ioctl($device, TUNSETIFF, $request) ? $device : undef;
}

sub child {
    my ($run) = @_;
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
    $run->();
    POSIX::_exit(0);
}

# Forwards packets in both directions, each after its delay, as long as the test runs.
sub forward {
    my ($near, $far, $delay, $hold_ups) = @_;
    my ($parent, %known, %forgotten) = getppid;
    $SIG{USR1} = sub { %forgotten = %known };
    my $told;
    if ($hold_ups) {
        open $told, '>', $hold_ups or die "$hold_ups: $!\n";
        $told->autoflush(1);
    }
    # Looks each millisecond whether it still runs.
    my $longest = $told ? 0.001 : 1;
    my @ways = map { { in => $_->[0], out => $_->[1], back => $_->[2], packets => [] } } [$near, $far, 0], [$far, $near, 1];
    $_->{in}->blocking(0) for @ways;
    my $last = time;
    while (getppid == $parent) {
        my ($read, $next) = ('');
        vec($read, fileno $_->{in}, 1) = 1 for @ways;
        for my $packet (map { $_->{packets}[0] // () } @ways) {
            $next = $packet->[0] if !defined $next || $packet->[0] < $next;
        }
        my $wait = defined $next ? $next - time : $longest;
        $wait = $longest if $wait > $longest;
        select $read, undef, undef, $wait < 0 ? 0 : $wait;
        if ($told) {
            my $now = time;
            print $told "$last $now\n" if $now - $last > $longest + 0.002;
            $last = $now;
        }
        for my $way (@ways) {
            while (sysread $way->{in}, my $packet, 65536) {
                my $connection = connection($packet, $way->{back});
                $known{$connection} = 1;
                push @{ $way->{packets} }, [time + $delay, $packet] unless $forgotten{$connection};
            }
            while (@{ $way->{packets} } && $way->{packets}[0][0] <= time) {
                syswrite $way->{out}, (shift @{ $way->{packets} })->[1];
            }
        }
    }
}

# The two ports of a TCP packet over IPv4, the near end's first.
sub connection {
    my ($packet, $back) = @_;
    return '' if length $packet < 24 || ord(substr $packet, 9, 1) != 6;
    my @ports = unpack 'n2', substr $packet, 4 * (ord($packet) & 15), 4;
    return join ' ', $back ? reverse @ports : @ports;
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    for my $pid (grep { $_ } @$self{qw(forwarder far)}) {
        kill KILL => $pid;
        waitpid $pid, 0;
    }
}

1;
