# http2: how connections begin. Servers may send their SETTINGS before they have heard anything (RFC 9113, section 3.4), and with
# `http2 auto` a server may choose HTTP/2 later, although it has chosen HTTP/1.1 before. Nobody waits for long for one that says nothing.
#
# about: protocols
# faults: F5.1 "silent from the beginning: the next requests are answered"
# faults: F22.5 "late SETTINGS: the others are answered before" "silent from the beginning: those that wait are answered"

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More;

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

# A server that sends its SETTINGS first, and answers each request by a header.
my $listener = IO::Socket::INET->new(Listen => 128, LocalAddr => '127.0.0.1') or die "no socket: $!";
my $server = '127.0.0.1:' . $listener->sockport;
my $child = fork // die "fork: $!";
if (!$child) {
    $SIG{TERM} = 'DEFAULT';
    my $all = IO::Select->new($listener);
    my %bytes;
    while (my @ready = $all->can_read) {
        for my $socket (@ready) {
            if ($socket == $listener) {
                my $new = $listener->accept or next;
                syswrite $new, pack 'x3Cx5', 4;
                $all->add($new);
            }
            elsif (!sysread $socket, $bytes{$socket}, 65536, length($bytes{$socket} // '')) {
                $all->remove($socket);
                delete $bytes{$socket};
                close $socket;
            }
            else {
                answer($socket, $bytes{$socket});
            }
        }
    }
    POSIX::_exit(0);
}

# Reads frames, and answers those that are complete. The preface comes before the first one.
sub answer {
    my ($socket, undef) = @_;
    $_[1] =~ s/^PRI \* HTTP.2\.0\r\n\r\nSM\r\n\r\n//;
    while (length $_[1] >= 9) {
        my ($high, $low, $type, $flags, $stream) = unpack 'nCCCN', $_[1];
        my $length = $high * 256 + $low;
        last if length $_[1] < 9 + $length;
        substr $_[1], 0, 9 + $length, '';
        syswrite $socket, pack 'x3CCx4', 4, 1 if $type == 4 && !$flags;
        # HEADERS with ":status: 200", END_STREAM and END_HEADERS.
        syswrite $socket, pack 'nCCCNC', 0, 1, 1, 5, $stream, 0x88 if $type == 1;
    }
}

my $many = 50;
my %slow = map { $_ => Keepalive::Streams->start } qw(late never silent);
my ($changing, $port) = (free_port(), free_port());
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %slow) {
    $upstreams .= "upstream $name { server @{[ $slow{$name}->address ]} max_fails=0; keepalive 4; http2 on; }\n";
    $locations .= "location /$name { proxy_read_timeout 20s; proxy_pass http://$name; }\n";
}
for my $number (1 .. $many) {
    $upstreams .= "upstream u$number { server $server max_fails=0; keepalive 4; http2 on; }\n";
    $locations .= "location /$number/ { proxy_pass http://u$number/; }\n";
    $locations .= "location /calls$number/ { rewrite ^/calls\\d+/(.*) /\$1 break; grpc_pass grpc://u$number; }\n"
        if has_feature('with-http_v2_module');
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 2s;
$upstreams
upstream changing { server 127.0.0.1:$changing max_fails=0; keepalive 4; http2 auto; }
server {
    listen 127.0.0.1:$port;
    $locations
    location = /settled { return 200; }
    location /hasty { proxy_read_timeout 500ms; proxy_pass http://silent; }
    location /changing { proxy_pass @{[ has_feature('with-http_ssl_module') ? 'https' : 'http' ]}://changing; }
}
END

my ($worker) = $nginx->workers;
for my $what ('', has_feature('with-http_v2_module') ? 'calls' : ()) {
    # The worker gets all requests together, and connects to the server for each. Before it looks at the first of these connections,
    # the server has sent its SETTINGS on most of them.
    my @clients = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) } 1 .. $many;
    get($port, '/none');
    kill STOP => $worker;
    my @requests = map { begin($port, "/$what$_/", over => $clients[$_ - 1]) } 1 .. $many;
    kill CONT => $worker;
    is scalar(grep { $_->finish->{status} == 200 } @requests), $many,
        ($what || 'requests') . ': fifty new connections at once: all are answered';
    # The next connections are new ones.
    $nginx->reload if !$what;
    ($worker) = $nginx->workers;
}

# The first connection of a server says nothing, for some time or ever.
{
    wait_for { 1 == $nginx->workers } or die 'the old worker stays';
    $slow{late}->behave('late=4000&times=1');
    $slow{never}->behave('accept=silent&times=1');
    my %first;
    for my $name (qw(late never)) {
        $first{$name} = begin($port, "/$name?n=0", timeout => 20);
        ok wait_for { $slow{$name}->stats->{open} == 1 }, "$name: the first request opens a connection";
    }
    my %others = map { my $name = $_; $name => [map { begin($port, "/$name?n=$_") } 1 .. 30] } keys %first;
    is statuses(@{ $others{late} }), '200 x 30', 'late SETTINGS: the others are answered';
    ok !IO::Select->new($first{late}{socket})->can_read(0), 'late SETTINGS: the others are answered before';
    is statuses(@{ $others{never} }), '200 x 30', 'silent from the beginning: those that wait are answered';
    is $first{late}->finish->{status}, 200, 'late SETTINGS: and the first one when they have come';
    is join(' ', map { $slow{$_}->stats->{accepted} } qw(late never)), '2 2', 'by one more connection';
    $first{never}->abort;

    $slow{silent}->behave('accept=silent&times=1');
    is get($port, '/hasty')->{status}, 504, 'silent from the beginning: the first request fails';
    is join(' ', map { get($port, '/silent', timeout => 5)->{status} } 1 .. 3), '200 200 200',
        'silent from the beginning: the next requests are answered';
    is $slow{silent}->stats->{accepted}, 2, 'over one other connection';
    $_->rules_are_kept for values %slow;
}

SKIP: {
    skip 'this nginx has no TLS, or no HTTP/2', 1 unless has_feature('with-http_ssl_module') && has_feature('with-http_v2_module');
    my ($certificate, $key) = self_signed('localhost');
    my ($parameter, $directive) = version_at_least('1.25.1') ? ('', 'http2 on;') : (' http2', '');
    my $http = sub {
        my ($with, $on) = @_;
        return "server { listen 127.0.0.1:$changing ssl$with; $on ssl_certificate $certificate; ssl_certificate_key $key;\n"
            . 'location / { return 200 "$server_protocol $connection_requests"; } }';
    };
    my $other = Keepalive::Nginx->new(module => 0, http => $http->('', ''))->start;
    is get($port, '/changing')->{body}, "HTTP/1.1 $_", "auto: HTTP/1.1, request $_ of its connection" for 1 .. 3;
    $other->stop;
    $other = Keepalive::Nginx->new(module => 0, http => $http->($parameter, $directive))->start;
    is get($port, '/changing')->{body}, 'HTTP/2.0 1', 'auto: the same server with HTTP/2';
    is get($port, '/changing')->{body}, "HTTP/2.0 $_", "auto: request $_ of its connection" for 2 .. 3;
    $other->stop;
}
$nginx->stop;
done_testing;

END {
    local ($?, $!);
    kill TERM => $child if $child;
    waitpid $child, 0 if $child;
}
