# keepalive_status with large answers, for every client: a slow one, one that leaves, one that does not read, one that speaks
# HTTP/1.0, HTTP/2 or TLS, and with every filter that nginx may apply.
#
# about: status

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IO::Uncompress::Gunzip ();
use JSON::PP ();
use POSIX ();
use Socket qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Auth ();
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Http2 ();
use Keepalive::Nginx;
use Keepalive::Prometheus;
use Keepalive::Setup;

needs_module();

my @counters = qw(requests opened reused given taken stale repeats);

# A large configuration, whose answers have megabytes.
my ($port, $slow_port, $tls_port, $h2_port) = map { free_port() } 1 .. 4;
my ($number, $per_upstream) = (1000, 10);
my $upstreams = join '', map {
    my $upstream = $_;
    "upstream number$upstream { keepalive 16;" . join('', map { sprintf ' server 127.%d.%d.%d:80;', $_, $upstream / 250, $upstream % 250 }
        1 .. $per_upstream) . " }\n";
} 1 .. $number;
my $tls = has_feature('with-http_ssl_module');
my $h2 = Keepalive::Auth::http2_listen($h2_port);
my $auth = has_feature('with-http_auth_request_module');
my $sub = has_feature('with-http_sub_module');
my ($certificate, $key) = $tls ? self_signed('localhost') : ();
my $pages = work_dir() . '/pages';
mkdir $pages or die "$pages: $!";
write_page('both', 'A<!--#include virtual="/status?format=json" -->B<!--#include virtual="/status?format=prometheus" -->C');
write_page('nested', 'A<!--#include virtual="/ssi/both" -->B');
write_page('file', 'x');
my $large = Keepalive::Nginx->new(connections => 1024, http => <<"END")->start;
$upstreams
server {
    listen 127.0.0.1:$port;
    listen 127.0.0.1:$slow_port sndbuf=32k;
    @{[ $tls ? "listen 127.0.0.1:$tls_port ssl; ssl_certificate $certificate; ssl_certificate_key $key;" : '' ]}
    location = /small { return 200 small; }
    location = /status { keepalive_status; }
    location = /rate { limit_rate 4m; keepalive_status; }
    location = /gzip { gzip on; gzip_types *; gzip_comp_level 1; keepalive_status; }
    location = /gzip_text { gzip on; gzip_types text/plain; gzip_comp_level 1; keepalive_status; }
    location = /impatient { send_timeout 300ms; keepalive_status; }
    location = /impatient_rate { send_timeout 300ms; limit_rate 4m; keepalive_status; }
    location /ssi/ { alias $pages/; ssi on; ssi_types *; }
    @{[ $sub ? 'location = /sub { sub_filter_once off; sub_filter_types *; sub_filter upstream_keepalive UP; keepalive_status; }' : '' ]}
    @{[ $auth ? "location = /asks { alias $pages/file; auth_request /status; }" : '' ]}
    location = /asks_ours { alias $pages/file; auth_subrequest /status; }
}
@{[ $h2 ? "server { $h2 location = /status { keepalive_status; } location = /impatient { send_timeout 300ms; keepalive_status; } }" : '' ]}
END

sub write_page {
    my ($name, $text) = @_;
    open my $out, '>', "$pages/$name" or die "$pages/$name: $!";
    print $out $text;
    close $out or die "$pages/$name: $!";
}

# A connection with a small receive buffer, on which a request was sent.
sub connect_slowly {
    my ($to, $path, $version) = @_;
    my $socket = IO::Socket::INET->new(Proto => 'tcp') or die $!;
    $socket->setsockopt(SOL_SOCKET, SO_RCVBUF, 8192) or die $!;
    connect $socket, Socket::pack_sockaddr_in($to, Socket::inet_aton('127.0.0.1')) or die $!;
    syswrite $socket, "GET $path HTTP/" . ($version // '1.1') . "\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    return $socket;
}

# Reads a response to its end, this many bytes at a time.
sub read_all {
    my ($socket, $piece, $pause) = @_;
    my $bytes = '';
    while (IO::Select->new($socket)->can_read(10)) {
        sysread($socket, $bytes, $piece || 65536, length $bytes) or last;
        sleep $pause if $pause;
    }
    return $bytes;
}

# Status, headers and body of a response, and what follows it. (Keepalive::Client takes its time with megabytes.)
sub parsed {
    my ($bytes) = @_;
    my $at = index $bytes, "\r\n\r\n";
    my $head = substr $bytes, 0, $at + 2;
    $at += 4;
    if ($head !~ /^Transfer-Encoding: chunked\r$/mi) {
        return { head => $head, body => substr($bytes, $at), complete => $head !~ m{^HTTP/1.1}, rest => '' };
    }
    my $body = '';
    while ((my $end = index $bytes, "\r\n", $at) > 0) {
        my $size = hex substr $bytes, $at, $end - $at;
        $body .= substr $bytes, $end + 2, $size;
        $at = $end + 2 + $size + 2;
        return { head => $head, body => $body, complete => 1, rest => substr($bytes, $at) } if $size == 0;
    }
    return { head => $head, body => $body, complete => 0, rest => '' };
}

# Nothing is counted while the answers are compared, so that all are alike but for the time.
sub timeless { return $_[0] =~ s/("timestamp":)[\d.]+/$1/r }

sub fetch { return parsed(read_all(begin($port, @_)->{socket})) }

my %whole;
for my $format (qw(json prometheus)) {
    my $begun = time;
    my $answer = fetch("/status?format=$format");
    my $took = time - $begun;
    note sprintf '%s of %d servers: %.1f MB in %.0f ms', $format, $number * $per_upstream, length($answer->{body}) / 1e6, $took * 1000;
    ok $answer->{complete}, "large, $format: is complete";
    cmp_ok $took, '<', 1, "large, $format: in less than a second";
    $whole{$format} = timeless($answer->{body});
}

{
    my $json = JSON::PP::decode_json($whole{json} =~ s/("timestamp":)/${1}0/r);
    is scalar keys %{ $json->{upstreams} }, $number, 'large, JSON: all upstreams';
    is scalar(grep { @{ $_->{peers} } == $per_upstream } values %{ $json->{upstreams} }), $number, 'large, JSON: all servers';
    is join("\n", wrong_in($whole{prometheus})), '', 'large, Prometheus: nothing is wrong';
    my $each = join '|', 'connections', map { "${_}_total" } @counters;
    my @samples = $whole{prometheus} =~ /^nginx_upstream_keepalive_(?:$each)\{/mg;
    is scalar @samples, $number * $per_upstream * (3 + @counters), 'large, Prometheus: all servers';
}

# Tests that a body is whole; there is no use in seeing it if it is not.
sub whole {
    my ($format, $body, $title) = @_;
    my $is = timeless($body // '');
    ok $is eq $whole{$format}, $title or diag sprintf '%d bytes instead of %d', length $is, length $whole{$format};
}

for my $format (qw(json prometheus)) {
    my $path = "?format=$format";
    whole($format, parsed(read_all(connect_slowly($slow_port, "/status$path"), 30000, 0.001))->{body}, "large, $format: a slow client");
    whole($format, parsed(read_all(begin($port, "/status$path")->{socket}, 1 << 20, 0.05))->{body}, "large, $format: a client that pauses");
    my $begun = time;
    whole($format, fetch("/rate$path")->{body}, "large, $format: limit_rate");
    # nginx sends as much as fits into a second at once, and counts whole seconds.
    cmp_ok time - $begun, '>', length($whole{$format}) / (4 << 20) - 2, "large, $format: which is heeded";
    my $old = parsed(read_all(connect_slowly($port, "/status$path", '1.0')));
    unlike $old->{head}, qr/chunked/, "large, $format, HTTP/1.0: no chunks";
    whole($format, $old->{body}, "large, $format, HTTP/1.0: it is whole");

    for my $location ('gzip', $format eq 'prometheus' ? 'gzip_text' : ()) {
        my $packed = fetch("/$location$path", headers => { 'Accept-Encoding' => 'gzip' });
        like $packed->{head}, qr/^Content-Encoding: gzip\r$/m, "large, $format, $location: it is compressed";
        IO::Uncompress::Gunzip::gunzip(\$packed->{body} => \my $unpacked);
        whole($format, $unpacked, "large, $format, $location: it is whole");
    }
    SKIP: {
        skip 'nginx has no sub_filter', 1 unless $sub;
        my $expected = $whole{$format} =~ s/upstream_keepalive/UP/gr;
        ok timeless(parsed(read_all(connect_slowly($port, "/sub$path"), 30000))->{body}) eq $expected, "large, $format: sub_filter";
    }
    SKIP: {
        skip 'there is no TLS', 1 unless $tls && `curl --version 2>/dev/null`;
        whole($format, scalar `curl -sk --max-time 20 "https://127.0.0.1:$tls_port/status$path"`, "large, $format: TLS");
        whole($format, scalar `curl -sk --max-time 20 --limit-rate 10M "https://127.0.0.1:$tls_port/rate$path"`, "large, $format: TLS, slowly");
    }
    SKIP: {
        skip 'there is no HTTP/2', 1 unless $h2;
        my $curl = 'curl -s --max-time 20 --http2-prior-knowledge';
        whole($format, scalar `$curl "http://127.0.0.1:$h2_port/status$path"`, "large, $format: HTTP/2");
        whole($format, scalar `$curl --limit-rate 10M "http://127.0.0.1:$h2_port/status$path"`, "large, $format: HTTP/2, slowly");
    }
}

# Twice on a connection, one request right after the other.
{
    my $request = begin($port, '/status?format=json', keep_alive => 1);
    $request->more("GET /status?format=prometheus HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    my $first = parsed(read_all($request->{socket}));
    whole('json', $first->{body}, 'large, pipelined: the first');
    my $second = parsed($first->{rest});
    whole('prometheus', $second->{body}, 'large, pipelined: the second');
}

# As a part of something else.
for my $client ('quick', 'slow') {
    my $get = sub {
        my ($path) = @_;
        my $socket = $client eq 'quick' ? begin($port, $path)->{socket} : connect_slowly($slow_port, $path);
        return parsed(read_all($socket, 30000))->{body};
    };
    my $expected = "A$whole{json}B$whole{prometheus}C";
    ok timeless($get->('/ssi/both')) eq $expected, "large, a $client client: two of them included";
    ok timeless($get->('/ssi/nested')) eq "A${expected}B", "large, a $client client: included, and included again";
}
is fetch($_)->{head} =~ m{^HTTP/1.1 (\d+)} && $1, 200, "large, $_: it authorises" for $auth ? '/asks' : (), '/asks_ours';
# That was counted.
$whole{$_} = timeless(fetch("/status?format=$_")->{body}) for qw(json prometheus);

# A client that leaves.
my $settle = sub { fetch('/small') for 1, 2; return $large->descriptors };
my $descriptors = $settle->();
my @paths = ('/status', '/rate', '/gzip', '/ssi/both', '/impatient', $sub ? '/sub' : ());
for my $path (@paths) {
    for my $read (0, 1, 200_000, 2_000_000) {
        my $socket = connect_slowly($read % 3 ? $slow_port : $port, "$path?format=json");
        my $bytes = '';
        while (length $bytes < $read) { sysread($socket, $bytes, 65536, length $bytes) or last }
        close $socket;
    }
    ok wait_for { $settle->() <= $descriptors }, "large, $path: those who leave leave nothing behind";
}

# A client that does not read: nginx ends the connection when send_timeout is over.
for my $path ('/impatient?format=json', '/impatient_rate?format=prometheus') {
    my $begun = time;
    my $socket = connect_slowly($slow_port, $path);
    ok wait_for { $settle->() > $descriptors }, "large, $path: a client that does not read";
    ok wait_for { $settle->() <= $descriptors }, 'is given up';
    my $took = time - $begun;
    ok $took > 0.25 && $took < 3, 'when send_timeout is over' or diag $took;
    ok !parsed(read_all($socket))->{complete}, 'its response has no end';
    # One that does read is served for as long as it takes.
    my $format = $path =~ s/.*=//r;
    whole($format, parsed(read_all(connect_slowly($slow_port, $path), 30000, 0.002))->{body}, "large, $path: a client that reads slowly");
}
SKIP: {
    skip 'there is no HTTP/2', 2 unless $h2;
    # Without an update of its windows the client gets 64 kB.
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $h2_port) or die $!;
    my $field = sub { Keepalive::Http2::field(@_) };
    my $headers = join '', $field->(':method', 'GET'), $field->(':scheme', 'http'), $field->(':authority', 'a'),
        $field->(':path', '/impatient?format=json');
    syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . Keepalive::Http2::frame(4, 0, 0, '') . Keepalive::Http2::frame(1, 5, 1, $headers);
    my ($bytes, $data, $is_reset) = ('', 0, 0);
    while (!$is_reset && IO::Select->new($socket)->can_read(5) && sysread $socket, $bytes, 65536, length $bytes) {
        while (length $bytes >= 9) {
            my ($high, $low, $type) = unpack 'C n C', $bytes;
            my $size = $high << 16 | $low;
            last if length $bytes < 9 + $size;
            substr $bytes, 0, 9 + $size, '';
            $data += $size if $type == 0;
            $is_reset ||= $type == 3;
        }
    }
    is $data, 65535, 'large, HTTP/2: a client that does not read has the first part';
    ok $is_reset, 'and is given up';
    close $socket;
}

# Others, while it is asked for a lot: how long the slowest of their requests takes.
{
    my $slowest = sub {
        my ($for) = @_;
        my ($end, $most, $count) = (time + $for, 0, 0);
        while (time < $end) {
            my $begun = time;
            get($port, '/small')->{status} == 200 or die 'no answer';
            $most = time - $begun if time - $begun > $most;
            $count++;
        }
        return ($most, $count);
    };
    my ($alone) = $slowest->(0.5);
    my $stop = work_dir() . '/stop';
    my @scrapers = scrape(20, $stop);
    # A busy machine is no failure, if it is not always so.
    my ($beside, $count);
    for (1 .. 4) {
        ($beside, $count) = $slowest->(1.5);
        last if $beside < 0.3;
    }
    my ($scrapes, $broken) = scraped($stop, @scrapers);
    note sprintf 'small requests: at most %.1f ms alone, %.1f ms beside %d scrapes by 20 clients (%d requests)',
        $alone * 1000, $beside * 1000, $scrapes, $count;
    is $broken, 0, 'beside others: large answers are complete';
    cmp_ok $scrapes, '>=', 20, 'beside others: all clients get them';
    cmp_ok $beside, '<', 0.3, 'beside others: small requests do not wait for long';
}

# So many clients that ask for large answers, one after the other, until the file exists.
sub scrape {
    my ($clients, $stop) = @_;
    return map {
        my $client = $_;
        my $pid = fork // die $!;
        if (!$pid) {
            $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
            my ($scrapes, $broken) = (0, 0);
            while (!-e $stop) {
                my $socket = begin($port, '/status?format=' . ($client % 2 ? 'json' : 'prometheus'))->{socket} or next;
                my $end = '';
                while (sysread $socket, my $bytes, 1 << 20) { $end = substr $end . $bytes, -7 }
                $scrapes++;
                $broken++ if $end ne "\r\n0\r\n\r\n";
            }
            open my $out, '>', "$stop-$$";
            print $out "$scrapes $broken";
            close $out;
            POSIX::_exit(0);
        }
        $pid;
    } 1 .. $clients;
}

# Stops them; returns how many answers they have had, and how many of them were not complete.
sub scraped {
    my ($stop, @pids) = @_;
    open my $out, '>', $stop or die "$stop: $!";
    my ($scrapes, $broken) = (0, 0);
    for my $pid (@pids) {
        waitpid $pid, 0;
        open my $in, '<', "$stop-$pid" or next;
        my ($more, $more_broken) = split ' ', <$in>;
        $scrapes += $more;
        $broken += $more_broken;
    }
    unlink $stop;
    return ($scrapes, $broken);
}

# Memory: answers, whole and in part, do not leak.
{
    my ($worker) = $large->workers;
    my $ask = sub {
        my ($number) = @_;
        for (1 .. $number) {
            my $socket = begin($port, ($_ % 4 > 1 ? '/status' : '/ssi/both') . '?format=' . ($_ % 2 ? 'json' : 'prometheus'))->{socket};
            my $limit = $_ % 5 ? 100_000 : 1e9;
            my $got = 0;
            while ($got < $limit) { $got += sysread($socket, my $bytes, 1 << 18) || last }
        }
        wait_for { $settle->() <= $descriptors };
        return memory_of($worker);
    };
    my $before = $ask->(30);
    my $after = $ask->(200);
    note "memory: $before kB, and after 200 answers $after kB";
    memory_is_below $after, $before + 4096, 'memory: it is given back';
}

# A reload in the middle of an answer.
{
    my $socket = connect_slowly($slow_port, '/status?format=json');
    sysread $socket, my $bytes, 30000;
    my @old = $large->reload;
    my $answer = parsed($bytes . read_all($socket, 30000));
    whole('json', $answer->{body}, 'reload: an answer that has begun is whole');
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'reload: then the old worker goes';

    # Answers to clients that take all they get at once.
    my $stop = work_dir() . '/stop';
    my @scrapers = scrape(4, $stop);
    for (1 .. 4) {
        sleep 0.2;
        @old = $large->reload;
    }
    my ($scrapes, $broken) = scraped($stop, @scrapers);
    ok $scrapes > 4, 'reload: answers to clients that read quickly';
    is $broken, 0, 'reload: they are complete';
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'reload: the old workers go';
}
$large->stop;

done_testing;
