package Keepalive::Backend;

# Starts and stops the scripted backend (see t/backend), and talks to its control listener.

use strict;
use warnings;

use JSON::PP ();
use POSIX ();

use Keepalive::Client;
use Keepalive::Setup;

my $count = 0;

# Keepalive::Backend->start(protocol => 'fastcgi', listen => ['127.0.0.1:0', 'unix:/path'])
#
# `arguments` are more arguments of the program. With `host` it listens on that address instead of 127.0.0.1. `within` is a command that runs it elsewhere, for example in a
# network namespace; the control listener is a unix socket then.
sub start {
    my ($class, %options) = @_;
    my $program = $ENV{TEST_NGINX_BACKEND} or die "TEST_NGINX_BACKEND must name the backend program\n";
    my $host = $options{host} || '127.0.0.1';
    my $control = $options{within} ? 'unix:' . work_dir() . '/control' . ++$count : '127.0.0.1:0';
    my @listen = @{ $options{listen} || ["$host:0"] };

    my @command = (@{ $options{within} || [] }, $program, '--exit-with-parent', '--protocol', $options{protocol} || 'http',
        @{ $options{arguments} || [] }, '--control', $control, map { ('--listen', $_) } @listen);
    my $pid = open my $output, '-|', @command or die "cannot start $program: $!\n";

    my @addresses;
    while (my $line = <$output>) {
        chomp $line;
        last if $line eq 'ready';
        push @addresses, $line;
    }
    $control = pop @addresses or die "$program did not start\n";
    return bless {
        pid => $pid, owner => $$, output => $output,
        addresses => \@addresses, control => $control,
    }, $class;
}

sub port_of { $_[0] =~ /:(\d+)$/ ? $1 : undef }

# The address of a listener, for nginx's `server` directive.
sub address { $_[0]{addresses}[$_[1] || 0] }

# The port of a listener.
sub port { port_of($_[0]->address($_[1])) }

# The port of the control listener.
sub control_port { port_of($_[0]{control}) }

# The counters of a listener: { accepted, open, max_open, requests, busy (being answered), bytes_left_over, expired (closed by
# `idle=`), ids, ids_again }.
sub stats {
    my ($self, $listener) = @_;
    my @lines = split /\n/, $self->control('/stats');
    return JSON::PP::decode_json($lines[$listener || 0]);
}

# Resets the counters; the next connection is number 1 again.
sub reset { $_[0]->control('/reset') }

# Closes or resets all connections that wait for a request: 'close' or 'reset'.
sub drop { $_[0]->control('/drop?how=' . ($_[1] || 'close')) }

# The last request of a listener, as { line, headers (lines), body }; a chunked body stays chunked.
sub last_request {
    my ($self, $listener) = @_;
    my ($head, $body) = split /\r\n\r\n/, $self->control('/last?listener=' . ($listener || 0)), 2;
    my ($line, @headers) = split /\r\n/, $head // '';
    return { line => $line // '', headers => \@headers, body => $body // '' };
}

# Refuses connections for some milliseconds, on one listener if one is given.
sub refuse { $_[0]->control("/refuse?ms=$_[1]" . (defined $_[2] ? "&listener=$_[2]" : '')) }

# The number of requests that have arrived, on one listener or on all.
sub requests {
    my ($self, $listener) = @_;
    my $number = 0;
    $number += $self->stats($_)->{requests} for $listener // (0 .. $#{ $self->{addresses} });
    return $number;
}

# A script (see t/backend/src/script.rs): an answer after this many milliseconds, and an unsolicited 408 after as many more.
# Both have the same length.
sub timed_out {
    my ($milliseconds) = @_;
    my $late = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    my $answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Fill: \r\n\r\nok";
    my $fill = 'x' x (length($late) - length $answer);
    my $raw = $answer =~ s/X-Fill: /X-Fill: $fill/r . $late;
    $raw =~ s/([^\w.:-])/sprintf '%%%02X', ord $1/ge;
    return "raw=$raw&drip=$milliseconds&pieces=2";
}

sub control {
    my ($self, $command) = @_;
    my ($path) = $self->{control} =~ /^unix:(.*)/;
    my $answer = get($self->control_port, $command, socket => $path);
    die "backend refused $command\n" if $answer->{status} != 200;
    return $answer->{body};
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    # Only the process that started the backend may stop it, not its forked children.
    return if $self->{owner} != $$;
    local ($?, $!);
    # A test may have stopped it.
    kill $_ => $pid for qw(TERM CONT);
    waitpid $pid, 0;
}

sub DESTROY { $_[0]->stop }

1;
