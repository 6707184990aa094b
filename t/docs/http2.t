# docs/http2.md has every fault of a server that the module names in the error log, with the section that the log names, and the
# numbers that the code has.
#
# about: documents

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Readme;

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output);

# The sources, without their unit tests.
sub source { return content_of("src/$_[0]") =~ s/^#\[cfg\(test\)\]\s+mod \w+ \{.*//msr }

my $document = content_of('docs/http2.md');
my ($faults) = $document =~ /^### Bad servers\n(.*)^### Numbers/ms;
my ($numbers) = $document =~ /^### Numbers\n(.*)^### Memory/ms;

# These never reach the log because of what a server does: a stream that is repeated, nginx's own module, and a stream that was left.
my %not_of_servers = map { $_ => 1 } 'stream not processed', 'invalid frames of the request', 'stream not open';

# What the log says, with its RFC and section.
sub texts {
    my ($source) = @_;
    my @texts;
    while ($source =~ /"((?:[^"\\]|\\.)*) \(RFC (\d+), section ([\d.]+)\)"/g) {
        my ($text, $rfc, $section) = ($1, $2, $3);
        $text =~ s/\\"/"/g;
        $text =~ s/\{\}/X/g;
        $text =~ s/\{(?:setting|code)\}/N/g;
        push @texts, [$text, $rfc, $section] unless $not_of_servers{$text};
    }
    return @texts;
}

# A row of the tables has the section of RFC 9113 alone, and of another one with its number.
for my $file (qw(carrier/fault.rs response/malformed.rs hpack/mod.rs)) {
    my @texts = grep { $_->[0] ne 'invalid request body' } texts(source("http2/$file"));
    cmp_ok scalar(@texts), '>', 5, "$file: there are faults";
    for (@texts) {
        my ($text, $rfc, $section) = @$_;
        my ($row) = grep { /^\|.*`\Q$text\E`/ } split /\n/, $faults;
        my ($column) = ($row // '') =~ /^\|.*\| ([^|]*) \| [^|]*\|$/;
        my @named = split /, /, ($column // '') =~ s/^(?:RFC (\d+), )//r;
        my $other = ($column // '') =~ /^RFC (\d+), / ? $1 : 9113;
        ok $rfc == $other && (grep { $_ eq $section } @named), "$file: $text";
    }
}

# Those about requests are in a paragraph.
my ($paragraph) = $faults =~ /^(\*\*Requests that HTTP.*?)\n\n/ms;
$paragraph =~ s/\s+/ /g;
for (['invalid request body', 9113, '8.1.1'], texts(source('http2/request.rs'))) {
    my ($text, $rfc, $section) = @$_;
    like $paragraph, qr/`\Q$text\E`.*?\b\Q$section\E\b/, "requests: $text";
}

# Numbers: constants of the code, and what a row says of them.
my %unit = (bytes => 1, KB => 1 << 10, MB => 1 << 20, s => 1000, minutes => 60_000);
sub constant {
    my ($file, $name) = @_;
    my ($value) = source($file) =~ /\bconst $name: \S+ = ([\d_]+(?: << \d+)?);/ or die "$file has no $name\n";
    $value =~ s/_//g;
    return $value =~ /^(\d+) << (\d+)$/ ? $1 << $2 : $value;
}
for my $expected (
    ['http2/carrier/limits.rs', 'GUESS', 'streams before the SETTINGS'],
    ['http2/carrier/frame.rs', 'LONGEST', 'payload of a frame', 'bytes'],
    ['http2/carrier/limits.rs', 'CONNECTION_WINDOW', 'window of the connection, for responses', 'MB'],
    ['http2/carrier/limits.rs', 'SMALL_WINDOW', 'window of a stream, for responses', 'KB'],
    ['http2/carrier/limits.rs', 'LARGE_WINDOW', 'window of a stream, for responses', 'MB'],
    ['http2/carrier/limits.rs', 'GROWTH', 'growth of all streams', 'MB'],
    ['http2/carrier/limits.rs', 'TURN', 'what a stream sends while others wait', 'KB'],
    ['http2/carrier/mod.rs', 'STALL', 'window of the connection at 0', 's'],
    ['http2/carrier/mod.rs', 'STALLED', 'window of the connection at 0', 'more'],
    ['http2/carrier/limits.rs', 'HEADER_LIST', 'header of a response', 'KB'],
    ['http2/carrier/limits.rs', 'CONTINUATIONS', 'the same, as sent', 'CONTINUATION'],
    ['http2/carrier/limits.rs', 'BLOCKS', 'header blocks of a response'],
    ['http2/carrier/limits.rs', 'BURST', 'frames without progress', 'at once'],
    ['http2/carrier/output.rs', 'FOR_ANSWERS', 'output that is not sent', 'KB'],
    ['http2/carrier/liveness.rs', 'SILENCE', 'PING with requests', 's of silence'],
    ['http2/carrier/liveness.rs', 'ANSWER', 'PING with requests', 's'],
    ['http2/carrier/liveness.rs', 'HELD', 'PING before the first', 's'],
    ['http2/carrier/liveness.rs', 'SECOND', 'the next PINGs', 's'],
    ['http2/carrier/liveness.rs', 'LATER', 'the next PINGs', 'minutes'],
    ['http2/sharing.rs', 'PATIENCE', 'waiting for a connection to come', 's'],
    ['ffi/peer/stream.rs', 'MAX_REFUSALS', 'repeats at a server that refuses'],
    ['ffi/peer/stream.rs', 'MAX_LEFT_BEHIND', 'repeats at a server that has processed'],
) {
    my ($file, $name, $begins, $unit) = @$expected;
    my ($row) = $numbers =~ /^\| \Q$begins\E[^|]*\| ([^|]*) \|/m;
    my $factor = !$unit ? 1 : $unit eq 'more' || $unit =~ /^s\b/ ? 1000 : $unit{$unit} // 1;
    my $value = constant($file, $name) / $factor;
    1 while $value =~ s/^(\d+)(\d{3})/$1,$2/;
    like $row // '', qr/(?<![\d,.])\Q$value\E(?!,?\d)@{[ $unit ? " $unit\\b" : '' ]}/, "$name: $value" . ($unit ? " $unit" : '');
}
is 1000 / constant('http2/carrier/limits.rs', 'REFILL'), ($numbers =~ /at once, (\d+) more each second/)[0], 'REFILL';
is constant('http2/carrier/limits.rs', 'DATA_REFILL'), ($numbers =~ /one more for each (\d+) bytes/)[0], 'DATA_REFILL';
is constant('http2/carrier/limits.rs', 'INTERIM'), ($numbers =~ /\(1xx\) counts as (\d+)/)[0], 'INTERIM';
like source('http2/carrier/limits.rs'), qr/fields: @{[ ($numbers =~ m{^\| fields of a header block \| (\d+)}m)[0] ]},/, 'fields';

done_testing;
