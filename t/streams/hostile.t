# http2: whatever a server sends that breaks the rules of HTTP/2, or is meant to do harm, its own stream or connection ends with a
# line in the log that names the rule; other streams and connections, and the worker, live on.
#
# faults: F6.3 "a flood of PING" "DATA of a stream that was never opened" "HTTP/1.1 instead"
# faults: F7.1 "Connection: close" "a line end in a value" "Content-Length: less than came"
# faults: F7.4 "an interim answer that ends the stream"
# faults: F9.4 "DATA beyond all windows, while the client reads nothing: memory"
# faults: F22.5 "its sibling is answered" "others are answered"
# faults: F22.8 "MAX_FRAME_SIZE 0" "a bomb of fields" "endless CONTINUATION" "a flood of RST_STREAM" "a flood of empty DATA"
# faults: F22.9 "a line end in a value" "END_STREAM too early" "Content-Length: less than came"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my $server = Keepalive::Streams->start;
my $calm = Keepalive::Streams->start;
my $port = free_port();
my %pass = (translated => '');
$pass{frames} = 'proxy_http_version 2;' if version_at_least('1.29.4');
my $locations = join '', map { "location /$_ { $pass{$_} proxy_pass http://hostile; }\n" } sort keys %pass;
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_max_temp_file_size 0;
proxy_read_timeout 3s;
large_client_header_buffers 8 64k;
upstream hostile { server @{[ $server->address ]} max_fails=0; keepalive 4; http2 on connections=1; }
upstream calm { server @{[ $calm->address ]} max_fails=0; keepalive 4; http2 on; }
server {
    listen 127.0.0.1:$port;
    $locations
    location /calm { proxy_pass http://calm; }
}
END
my ($worker) = $nginx->workers;

# Frames of the stream of the request.
sub headers { my ($payload, $flags) = @_; return frame('HEADERS', $flags // 'END_HEADERS', 's', $payload) }
sub data { my ($payload, $flags) = @_; return frame('DATA', $flags // '', 's', $payload) }
sub ends { return headers($_[0], 'END_HEADERS END_STREAM') }
sub settings { return frame('SETTINGS', '', 0, pack 'nN', @_) }
sub window { my ($stream, $increment) = @_; return frame('WINDOW_UPDATE', '', $stream, pack 'N', $increment) }
sub goaway { return frame('GOAWAY', '', 0, pack 'NN', @_) }

# A correct answer, and the beginning of one.
my $status = status_field(200);
my @answer = (headers($status), data('whole', 'END_STREAM'));
my @begun = (headers($status . field('content-length', 10)), data('begun'));

# What comes, and what becomes of the request: 502; `cut`, when its answer has begun; `200`, when it is to be tolerated; `any`. And
# what is lost by it: nothing, the `stream`, or possibly the whole `carrier`. (`block` is the same, for what only nginx's own module
# can see when the frames are its own.)
my @cases = (
    # Fields (RFC 9113, sections 8.2 and 8.3).
    ['a name with a capital', '502', 'stream', ends($status . field('X-Upper', 'a'))],
    ['a line end in a value', '502', 'stream', ends($status . field('x-a', "b\r\nInjected: yes"))],
    ['a line feed in a value', '502', 'stream', ends($status . field('x-a', "b\nInjected: yes"))],
    ['a carriage return in a value', '502', 'stream', ends($status . field('x-a', "b\rc"))],
    ['a zero in a value', '502', 'stream', ends($status . field('x-a', "b\0c"))],
    ['a line end in a name', '502', 'stream', ends($status . field("x-a\r\ninjected", 'b'))],
    ['a colon in a name', '502', 'stream', ends($status . field('x-a:b', 'c'))],
    ['a blank in a name', '502', 'stream', ends($status . field('x a', 'c'))],
    ['a blank behind a name', '502', 'stream', ends($status . field('content-length ', '5'))],
    ['no name', '502', 'stream', ends($status . field('', 'c'))],
    ['a blank in front of a value', '502', 'stream', ends($status . field('x-a', ' c'))],
    ['no :status', '502', 'stream', ends(field('x-a', 'b'))],
    ['two :status', '502', 'stream', ends($status . status_field(404))],
    [':status behind a field', '502', 'stream', ends(field('x-a', 'b') . $status)],
    map({ ["the status '$_'", '502', 'stream', ends(status_field($_))] } '', 'abc', '20', '2000', '099', '2 0', '-20', "200\r\nX: y"),
    ['the status 101', '502', 'stream', headers(status_field(101)), @answer],
    ['an unknown pseudo-header', '502', 'stream', ends($status . field(':what', 'x'))],
    ['a pseudo-header of requests', '502', 'stream', ends($status . field(':path', '/'))],
    ['Connection: close', '502', 'stream', headers($status . field('connection', 'close')), data('x', 'END_STREAM')],
    ['Transfer-Encoding: chunked', '502', 'stream', headers($status . field('transfer-encoding', 'chunked')),
        data("1\r\nx\r\n0\r\n\r\n", 'END_STREAM')],
    map({ ["the field $_", '502', 'stream', ends($status . field($_, 'x'))] } qw(keep-alive proxy-connection upgrade)),
    # Lengths (section 8.1.1).
    ['Content-Length: more than came', 'cut', 'stream', headers($status . field('content-length', 5)), data('abc', 'END_STREAM')],
    ['Content-Length: less than came', 'cut', 'stream', headers($status . field('content-length', 3)), data('abcde', 'END_STREAM')],
    ['Content-Length, and no DATA', '502', 'stream', ends($status . field('content-length', 5))],
    ['Content-Length and DATA of trailers', 'cut', 'stream', headers($status . field('content-length', 5)), data('abc'),
        ends(field('x-sum', '1'))],
    ['two different Content-Length', '502', 'stream',
        headers($status . field('content-length', 1) . field('content-length', 2)), data('a', 'END_STREAM')],
    map({ ["Content-Length: $_", '502', 'stream', headers($status . field('content-length', $_)), data('a', 'END_STREAM')] }
        'abc', '-1', '+1', '1 1', '1,1', '0x1', '99999999999999999999'),
    # Order (sections 5.1 and 8.1).
    ['DATA before the header', '502', 'stream', data('abc', 'END_STREAM')],
    ['an interim answer that ends the stream', '502', 'stream', ends(status_field(103))],
    ['endless interim answers', '502', 'block', headers(status_field(103)) . '*2000'],
    ['a second header that does not end the stream', 'cut', 'stream', @begun, headers($status)],
    ['a pseudo-header in trailers', 'cut', 'stream', @begun, data('12345'), ends($status)],
    ['a line end in trailers', 'any', 'stream', @begun, data('12345'), ends(field('x-a', "b\r\n\r\nHTTP/1.1 200 OK"))],
    ['END_STREAM too early', '200', 'none', headers($status), data('', 'END_STREAM')],
    ['DATA after the end', 'any', 'carrier', @answer, data('foreign') . '*20'],
    ['a header after the end', 'any', 'carrier', @answer, ends($status)],
    ['RST_STREAM in the body', 'cut', 'stream', @begun, frame('RST_STREAM', '', 's', pack 'N', 2)],
    ['RST_STREAM NO_ERROR in the body', 'cut', 'stream', @begun, frame('RST_STREAM', '', 's', pack 'N', 0)],
    # Streams (section 5.1).
    ['DATA of a stream that was never opened', '502', 'carrier', frame('DATA', '', 's+200', 'x')],
    ['a header of a stream that was never opened', '502', 'carrier', frame('HEADERS', 'END_HEADERS END_STREAM', 's+200', $status)],
    ['a header of an even stream', '502', 'carrier', frame('HEADERS', 'END_HEADERS END_STREAM', 2, $status)],
    ['a header of stream 0', '502', 'carrier', frame('HEADERS', 'END_HEADERS END_STREAM', 0, $status)],
    ['DATA of stream 0', '502', 'carrier', frame('DATA', '', 0, 'x')],
    ['RST_STREAM of stream 0', '502', 'carrier', frame('RST_STREAM', '', 0, pack 'N', 2)],
    ['RST_STREAM of a stream that was never opened', '502', 'carrier', frame('RST_STREAM', '', 's+200', pack 'N', 2)],
    ['PING of a stream', '502', 'carrier', frame('PING', '', 's', 'p' x 8)],
    ['GOAWAY of a stream', '502', 'carrier', frame('GOAWAY', '', 's', pack 'NN', 0, 0)],
    ['SETTINGS of a stream', '502', 'carrier', frame('SETTINGS', '', 's', pack 'nN', 3, 5)],
    ['PUSH_PROMISE', '502', 'carrier', frame('PUSH_PROMISE', 'END_HEADERS', 's', pack('N', 2) . $status)],
    # Sizes (section 4.2).
    ['DATA of 16,385 bytes', 'any', 'carrier', headers($status), data(\'x16385')],
    ['a header of 16,385 bytes', '502', 'carrier', headers(\'00:16385')],
    ['PING of 7 bytes', '502', 'carrier', frame('PING', '', 0, 'p' x 7)],
    ['SETTINGS of 5 bytes', '502', 'carrier', frame('SETTINGS', '', 0, 's' x 5)],
    ['SETTINGS with ACK and a value', '502', 'carrier', frame('SETTINGS', 'ACK', 0, pack 'nN', 3, 5)],
    ['RST_STREAM of 3 bytes', '502', 'carrier', frame('RST_STREAM', '', 's', 'rst')],
    ['WINDOW_UPDATE of 3 bytes', '502', 'carrier', frame('WINDOW_UPDATE', '', 's', 'win')],
    ['GOAWAY of 7 bytes', '502', 'carrier', frame('GOAWAY', '', 0, 'g' x 7)],
    ['more padding than DATA', 'any', 'carrier', headers($status), data("\x05abc", 'PADDED')],
    ['more padding than a header', '502', 'carrier', headers("\xff$status", 'END_HEADERS PADDED')],
    ['a padded frame without a byte', 'any', 'carrier', headers($status), data('', 'PADDED')],
    # Settings (section 6.5.2).
    ['MAX_FRAME_SIZE 0', '502', 'carrier', settings(5, 0)],
    ['MAX_FRAME_SIZE 16,383', '502', 'carrier', settings(5, 16_383)],
    ['MAX_FRAME_SIZE 2^24', '502', 'carrier', settings(5, 1 << 24)],
    ['INITIAL_WINDOW_SIZE 2^31', '502', 'carrier', settings(4, 1 << 31)],
    ['INITIAL_WINDOW_SIZE that takes a window above its limit', '502', 'carrier', window('s', 0x7fff0000 - 65_535), settings(4, 0x7fffffff)],
    ['ENABLE_PUSH', '502', 'carrier', settings(2, 1)],
    # Windows (section 6.9).
    ['WINDOW_UPDATE 0 for a stream', '502', 'stream', window('s', 0)],
    ['WINDOW_UPDATE 0 for all', '502', 'carrier', window(0, 0)],
    ['WINDOW_UPDATE beyond 2^31 for a stream', '502', 'stream', window('s', 0x7fffffff)],
    ['WINDOW_UPDATE beyond 2^31 for all', '502', 'carrier', window(0, 0x7fffffff)],
    # Header blocks (sections 4.3 and 6.10, RFC 7541).
    ['CONTINUATION without a header', '502', 'carrier', frame('CONTINUATION', 'END_HEADERS', 's', $status)],
    ['a frame within a header block', '502', 'carrier', headers($status, ''), frame('PING', '', 0, 'p' x 8)],
    ['CONTINUATION of another stream', '502', 'carrier', headers($status, ''), frame('CONTINUATION', 'END_HEADERS', 's+2', $status)],
    ['endless CONTINUATION', '502', 'carrier', headers($status, ''), frame('CONTINUATION', '', 's', field('x-a', 'b' x 100)) . '*20000'],
    ['endless empty CONTINUATION', '502', 'carrier', headers($status, ''), frame('CONTINUATION', '', 's', '') . '*100000'],
    ['index 0', '502', 'block', ends("\x80")],
    ['an index beyond the static table', '502', 'block', ends($status . "\xbe")],
    ['a huge index', '502', 'block', ends($status . "\xff" . "\xff" x 4 . "\x07")],
    ['an integer without an end', '502', 'block', ends($status . "\xff" x 100)],
    ['a string that is cut', '502', 'block', ends($status . "\0\x0aabc")],
    ['a huge string', '502', 'block', ends($status . "\0\x7f\xff\xff\xff\xff\x07abc")],
    ['an invalid code of Huffman', '502', 'block', ends($status . "\0\x01a\x84\xff\xff\xff\xff")],
    ['a table that was not allowed', '502', 'block', ends("\x3f\xe1\x1f$status")],
    ['a change of the table behind a field', '502', 'block', ends("$status\x20")],
    ['a bomb of fields', '502', 'block', headers(\(unpack('H*', $status) . '-90:16000'), 'END_HEADERS END_STREAM')],
    ['a bomb of long fields', '502', 'block', headers($status, ''),
        map({ frame('CONTINUATION', '', 's', \'90:16000') } 1 .. 20), frame('CONTINUATION', 'END_HEADERS', 's', '')],
    ['a header of 200 KB', '502', 'block', headers($status, ''),
        map({ frame('CONTINUATION', '', 's', \'00016101-x97') . '*1' } 1 .. 10), frame('CONTINUATION', '', 's', \'0001617fffff02-x16000')],
    # Floods (section 10.5).
    ['a flood of PING', '502', 'carrier', frame('PING', '', 0, 'p' x 8) . '*50000'],
    ['a flood of SETTINGS', '502', 'carrier', settings(3, 100) . '*50000'],
    ['a flood of empty SETTINGS', '502', 'carrier', frame('SETTINGS', '', 0, '') . '*50000'],
    ['a flood of empty DATA', 'any', 'carrier', headers($status), data('') . '*50000'],
    ['a flood of padding', 'any', 'carrier', headers($status), data(\'ff-00:255', 'PADDED') . '*50000'],
    ['a flood of RST_STREAM', '502', 'carrier', frame('RST_STREAM', '', 's', pack 'N', 2) . '*50000'],
    ['a flood of WINDOW_UPDATE', '502', 'carrier', window('s', 1) . '*50000'],
    ['a flood of PRIORITY', '502', 'carrier', frame('PRIORITY', '', 's', "\0\0\0\0\x10") . '*50000'],
    ['a flood of unknown frames', '502', 'carrier', frame(99, '', 's', 'x') . '*50000'],
    # Something else.
    ['HTTP/1.1 instead', '502', 'carrier', '=' . unpack 'H*', "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
    ['noise', '502', 'carrier', '=' . 'ff00' x 500],
    # What has to be tolerated.
    ['an unknown frame', '200', 'none', frame(99, '', 's', 'x'), frame(98, '', 0, 'x'), @answer],
    ['PRIORITY', '200', 'none', frame('PRIORITY', '', 's', "\0\0\0\0\x10"), @answer],
    ['an unknown setting', '200', 'none', settings(99, 5), @answer],
    ['the reserved bit', '200', 'none', map { s/\.s\./.rs./r } @answer],
    ['some empty DATA', '200', 'none', headers($status), data('') . '*10', data('whole', 'END_STREAM')],
    ['a PING or two', '200', 'none', frame('PING', '', 0, 'p' x 8) . '*2', @answer],
    ['padding', '200', 'none', headers("\x03$status\0\0\0", 'END_HEADERS PADDED'), data("\x03whole\0\0\0", 'PADDED END_STREAM')],
    ['interim answers', '200', 'stream', map({ headers(status_field($_)) } 100, 103), @answer],
    ['RST_STREAM after the end', '200', 'none', @answer, frame('RST_STREAM', '', 's', pack 'N', 0)],
    ['large frames allowed', '200', 'none', settings(5, (1 << 24) - 1), @answer],
    ['a small window for the next ones', '200', 'none', settings(4, 0), @answer, settings(4, 65_535)],
);

# The lines of the error log since the last time.
my $seen = 0;
sub new_lines {
    my $log = $nginx->error_log;
    my $new = substr $log, $seen;
    $seen = length $log;
    return $new;
}

for my $kind (sort keys %pass) {
    for my $case (@cases) {
        my ($name, $outcome, $lost, @frames) = @$case;
        # What the frames of an answer say is up to nginx's own module then.
        next if $kind eq 'frames' && $lost eq 'stream';
        my $title = "$kind, $name";
        my @others = (begin($port, "/$kind?delay=100&body=sibling"), begin($port, '/calm?delay=100&body=calm'));
        new_lines();
        my $answer = get($port, "/$kind?" . frames(@frames) . '&then=hang', method => 'POST', body => 'x', timeout => 10);
        # nginx may have had no time to send the beginning.
        my $became = !$answer->{complete} ? 'cut' : $answer->{status};
        my $is_open = $outcome eq 'any' || ($kind eq 'frames' && $lost eq 'block');
        if ($is_open) { like $became, qr/^(?:200|50[24]|cut)$/, "$title: $became" }
        # The end may have come before nginx has looked at the beginning.
        elsif ($outcome eq 'cut') { like $became, qr/^(?:cut|502)$/, "$title: $became" }
        elsif ($outcome eq 'cut') { like $became, qr/^(?:cut|502)$/, "$title: $became" }
        else { is $became, $outcome, $title }
        unlike join(' ', @{ $answer->{lines} }), qr/injected/i, "$title: nothing is injected";
        my ($sibling, $calm_one) = map { $_->finish } @others;
        if ($lost =~ /^(?:carrier|block)$/) { like $sibling->{status}, qr/^(?:200|502|504)$/, "$title: a sibling has an answer, $sibling->{status}" }
        else { is "$sibling->{status} $sibling->{body}", '200 sibling', "$title: its sibling is answered" }
        is "$calm_one->{status} $calm_one->{body}", '200 calm', "$title: others are answered";
        my $log = new_lines();
        # A server that is slow to go on is no news; a part of the table stays in the middle of an answer.
        like $log, qr/RFC (?:9113|7541|9110)/, "$title: the log names the rule"
            if $kind eq 'translated' && $became =~ /^(?:502|cut)$/ && $name !~ /^RST_STREAM/;
        cmp_ok scalar(() = $log =~ /\[(?:error|warn|alert|crit)\]/g), '<=', 6, "$title: the log is not flooded";
        is get($port, "/$kind?body=next")->{body}, 'next', "$title: the next one is answered";
    }
}

# Nobody reads: neither the server's window nor the memory of the worker is unlimited.
for my $kind (sort keys %pass) {
    my $before = memory_of($worker);
    my $endless = frames(headers($status), data(\'x16384') . '*2000');
    my @stalled = map { begin($port, "/$kind?$endless&then=hang") } 1 .. 3;
    sleep 1;
    memory_is_below(memory_of($worker), $before + 30_000, "$kind, DATA beyond all windows, while the client reads nothing: memory");
    is get($port, '/calm?body=calm')->{body}, 'calm', "$kind: others are answered";
    $_->abort for @stalled;
    ok wait_for { get($port, "/$kind?body=next")->{body} eq 'next' }, "$kind: and the next ones";
}

# From the first byte on.
for my $first ('', frame('PING', '', 0, 'p' x 8), settings(5, 0), frame('GOAWAY', '', 0, pack 'NN', 0, 0),
    '=' . unpack('H*', "HTTP/1.1 400 Bad Request\r\n\r\n"), frame('SETTINGS', '', 0, 'short'), frame('SETTINGS', 'ACK', 0, '')) {
    $server->drop;
    wait_for { !$server->stats->{open} };
    $server->behave("first=$first");
    my $answer = get($port, '/translated', method => 'POST', body => 'x', timeout => 10);
    like $answer->{status}, qr/^50[24]$/, "'$first' instead of SETTINGS: $answer->{status}";
    is get($port, '/calm?body=calm')->{body}, 'calm', "'$first': others are answered";
    $server->reset;
}
$server->drop;
ok wait_for { get($port, '/translated?body=next')->{body} eq 'next' }, 'and then the server is used again';

is join(' ', $nginx->workers), $worker, 'the worker has lived on';
$calm->rules_are_kept;
$nginx->stop;
done_testing;
