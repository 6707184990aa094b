package Keepalive::Streams;

# A server of HTTP/2 that answers, or misbehaves, as the query of each request says (see t/backend/src/http2/script.rs), and that
# tells which rules nginx has broken. What does not begin with HTTP/2 is served by HTTP/1.1.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;

use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;

our @ISA = qw(Keepalive::Backend);
our @EXPORT = qw(frame frames field status_field sum_of echo_of);

# Types of frames, their flags, and error codes (RFC 9113, sections 6 and 7).
our %TYPE = (DATA => 0, HEADERS => 1, PRIORITY => 2, RST_STREAM => 3, SETTINGS => 4, PUSH_PROMISE => 5, PING => 6, GOAWAY => 7,
    WINDOW_UPDATE => 8, CONTINUATION => 9);
our %FLAG = (END_STREAM => 1, ACK => 1, END_HEADERS => 4, PADDED => 8, PRIORITY => 32);

my $certificates = 0;

# Keepalive::Streams->start(connection => 'streams=128', tls => 1, alpn => 'h2')
#
# `connection` is the script of all connections. With `tls` it has a certificate of its own, for the name `name`, or for
# localhost. All other options are those of Keepalive::Backend.
sub start {
    my ($class, %options) = @_;
    my @arguments = ('--connection', $options{connection} // '');
    my @files;
    if ($options{tls}) {
        @files = self_signed($options{name} // 'localhost', 'server' . ++$certificates);
        push @arguments, '--certificate', $files[0], '--key', $files[1], '--alpn', $options{alpn} // 'h2,http/1.1';
    }
    my $self = $class->SUPER::start(%options, protocol => 'http2', arguments => \@arguments);
    $self->{certificate} = $files[0];
    return $self;
}

# The file of its certificate.
sub certificate { $_[0]{certificate} }

# What was counted of HTTP/2: { streams, open, max_open, refused, failed_handshakes, frames (by type), violations, broken (rules),
# connections (a list) }.
sub http2 { $_[0]->stats($_[1])->{http2} }

# The connections that spoke HTTP/2: { connection, tls, resumed, name, streams, open, max_open, frames, bytes_in, bytes_out,
# is_open }.
sub carriers {
    my ($self, $listener) = @_;
    return grep { $_->{protocol} eq 'h2' } @{ $self->http2($listener)->{connections} };
}

# Those that spoke HTTP/1.1.
sub ordinary {
    my ($self, $listener) = @_;
    return grep { $_->{protocol} ne 'h2' } @{ $self->http2($listener)->{connections} };
}

# The largest number of streams that any connection had at a time.
sub most_streams {
    my ($self, $listener) = @_;
    my ($most) = sort { $b <=> $a } map { $_->{max_open} } $self->carriers($listener);
    return $most // 0;
}

# What connections that are still to come do.
sub behave { $_[0]->control("/behave?$_[1]") }

# Changes the settings of the connections that are open, such as 'streams=1'.
sub settings { $_[0]->control("/settings?$_[1]") }

# Sends frames to all open connections.
sub send_frames { $_[0]->control('/frames?frames=' . $_[1]) }

# Ends all connections, each after its last stream.
sub goaway { $_[0]->control('/goaway') }

# Tests that nginx has kept to the rules.
sub rules_are_kept {
    my ($self, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @broken = map { @{ $self->http2($_)->{broken} } } 0 .. $#{ $self->{addresses} };
    is join("\n", @broken), '', ($name ? "$name: " : '') . 'nginx breaks no rule of HTTP/2';
}

# A frame for the `frames=` of a script: frame('HEADERS', 'END_HEADERS END_STREAM', 's', $payload). The stream is a number, 's' for
# that of the request, or 's+2'. The payload is bytes, or a reference to the script's own notation for them.
sub frame {
    my ($type, $flags, $stream, $payload) = @_;
    my $number = 0;
    $number |= $FLAG{$_} // die "no flag $_\n" for split ' ', $flags;
    my $text = ref $payload ? $$payload : unpack 'H*', $payload // '';
    return join '.', $TYPE{$type} // $type, $number, $stream, $text;
}

# `frames=` and these frames, and then the rest of the script.
sub frames { 'frames=' . join '_', @_ }

# A header field without indexing and without Huffman's code (RFC 7541, section 6.2.2).
sub field {
    my ($name, $value) = @_;
    return "\0" . string($name) . string($value);
}

sub string {
    my ($text) = @_;
    my $length = length $text;
    return chr($length) . $text if $length < 127;
    my ($bytes, $rest) = ("\x7f", $length - 127);
    while ($rest >= 128) {
        $bytes .= chr($rest % 128 + 128);
        $rest = int($rest / 128);
    }
    return $bytes . chr($rest) . $text;
}

# The pseudo-header of an answer.
sub status_field { field(':status', $_[0] // 200) }

# What the server calls the sum of a body.
sub sum_of { unpack '%32C*', $_[0] }

# The fields of a request as the server has echoed them (echo=1), as { name => [values] }, with the body's line as `body`.
sub echo_of {
    my ($answer) = @_;
    my %fields;
    for my $line (split /\n/, $answer->{body}) {
        if ($line =~ /^(body of .*)/) { $fields{body} = $1 }
        elsif ($line =~ /^(trailer \S+|:?[^:]+): (.*)$/) { push @{ $fields{$1} }, $2 }
    }
    return \%fields;
}

1;
