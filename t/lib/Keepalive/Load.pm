package Keepalive::Load;

# Requests in the background, by several clients at once, while the test does something to nginx.

use strict;
use warnings;

use POSIX ();

use Keepalive::Client;
use Keepalive::Setup;

my $serial = 0;

# Keepalive::Load->start($port, clients => 4, request => sub { my ($number) = @_; ('/path', %options) })
#
# Each client sends one request after the other until ->stop, or `requests` of them if that is given; with `keep_alive`
# over one connection, for which the answers must be short.
sub start {
    my ($class, $port, %options) = @_;
    my $request = $options{request} || sub { '/' };
    my $stop = work_dir() . '/load-stop-' . ++$serial;
    my $self = bless { clients => [], stop => $stop }, $class;
    for my $client (1 .. $options{clients} || 4) {
        my $log = work_dir() . "/load-$$-" . ++$serial;
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
            run($port, $client, $request, $log, $stop, %options);
            # Neither END blocks nor destructors of the parent may run here.
            POSIX::_exit(0);
        }
        push @{ $self->{clients} }, { pid => $pid, log => $log };
    }
    return $self;
}

# One line per answer: its status, 200 only if the body is complete and not from another answer.
sub run {
    my ($port, $client, $request, $log, $stop, %load) = @_;
    my ($limit, $connection) = $load{requests};
    open my $out, '>>', $log or die "$log: $!";
    $out->autoflush(1);
    for (my $number = 1; !-e $stop && (!$limit || $number <= $limit); $number++) {
        my ($path, %options) = $request->($number, $client);
        my $sent = begin($port, $path, %options, keep_alive => $load{keep_alive}, over => $connection);
        $connection = $sent->{socket} if $load{keep_alive};
        my $answer = $load{keep_alive} ? Keepalive::Client::parse($sent->receive) : $sent->finish;
        undef $connection unless $answer->{complete};
        my $status = $answer->{complete} ? $answer->{status} : "incomplete $answer->{status}";
        my $summary = substr $answer->{body}, 0, 60;
        $summary =~ s/\s+/ /g;
        print $out "$status $path $summary\n";
    }
}

sub lines {
    my ($self) = @_;
    my @lines;
    for my $client (@{ $self->{clients} }) {
        open my $in, '<', $client->{log} or next;
        push @lines, grep { /\n\z/ } <$in>;
    }
    return @lines;
}

# The number of answers so far.
sub answers { my @lines = $_[0]->lines; return scalar @lines }

# Waits for this many more answers.
sub wait_for_more {
    my ($self, $more) = @_;
    my $wanted = $self->answers + $more;
    return wait_for { $self->answers >= $wanted };
}

# Waits until the clients have sent all their requests.
sub finish {
    my ($self) = @_;
    waitpid $_->{pid}, 0 for @{ $self->{clients} };
    return $self->result;
}

# Stops the clients after their current request; returns the number of answers and those that are not 2xx.
sub stop {
    my ($self) = @_;
    # A file, because a signal would interrupt a running request.
    open my $out, '>', $self->{stop} or die "$self->{stop}: $!";
    return $self->finish;
}

sub result {
    my ($self) = @_;
    my @lines = $self->lines;
    my @failures = grep { !/^2\d\d / } @lines;
    chomp @failures;
    return (scalar @lines, @failures);
}

1;
