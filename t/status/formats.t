# keepalive_status: which client gets which format, and that each format is valid. And keepalive_zone.
#
# faults: F15.4 "keepalive_zone"
# about: status

use strict;
use warnings;

use Encode ();
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Prometheus;
use Keepalive::Setup;

needs_module();

my @counters = qw(requests opened reused given taken stale repeats);
my %reasons = (
    closed => [qw(timeout time requests hint learned evicted server_closed unexpected_data error check drain_limit exiting removed client_closed)],
    not_stored => [qw(http_1_0 connection_close request_close body_unread body_unsent error disabled connect upgraded identity protocol stateful_auth)],
);
my @http2 = qw(opened refused reset_sent reset_received goaways pings pings_lost stalls waits repeats);
my @dropped = qw(disabled server protocol limit closed expired resources invalid);
my @learned = qw(idle_timeout idle_timeout_closes requests requests_closes);
my @bounds = qw(0.001 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 +Inf);
my %type = (json => 'application/json', prometheus => 'text/plain; version=0.0.4; charset=utf-8', html => 'text/html; charset=utf-8');

# Which of the formats an answer is, by its body.
sub format_of {
    my ($answer) = @_;
    return $answer->{status} if $answer->{status} != 200;
    return 'incomplete' if !$answer->{complete};
    return $answer->{body} =~ /\A\{"schema":1,.*\}\n\z/s ? 'json'
        : $answer->{body} =~ /\A# HELP nginx_upstream_keepalive_workers .*\n\z/s ? 'prometheus'
        : $answer->{body} =~ /\A<!doctype html>.*<\/html>\s*\z/is ? 'html' : 'something else';
}

# The checker itself.
for my $case (
    ["# HELP a b\n# TYPE a gauge\na 1\n", 0],
    ["# HELP a b\n# TYPE a gauge\na{x=\"\\\\\\\"\\n,\"} 1\n", 0],
    ["# HELP a b\n# TYPE a gauge\na{x=\"\\\"} 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na{x=\"\"\"} 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na{x=\"\\t\"} 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na{x=\"1\",x=\"2\"} 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na{x=\"1\"} 1\na{x=\"1\"} 2\n", 1],
    ["# HELP a b\n# TYPE a gauge\na{x=\"\xff\"} 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na 1", 1],
    ["# HELP a b\n# TYPE a gauge\na 1.5\n", 1],
    ["# HELP a_seconds b\n# TYPE a_seconds gauge\na_seconds 1.5\n", 0],
    ["# TYPE a gauge\na 1\n", 1],
    ["# HELP a b\na 1\n", 1],
    ["# HELP a b\n# TYPE a counter\na 1\n", 1],
    ["# HELP a_total b\n# TYPE a_total gauge\na_total 1\n", 1],
    ["# HELP a b\n# TYPE a gauge\na 1\n# HELP b b\n# TYPE b gauge\nb 1\na{x=\"1\"} 1\n", 1],
    ["# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 1.5\na_count 2\n", 0],
    ["# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 1.5\na_count 3\n", 1],
    ["# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 3\na_bucket{le=\"+Inf\"} 2\na_sum 1.5\na_count 2\n", 1],
    ["# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_sum 1.5\na_count 2\n", 1],
) {
    my ($text, $is_wrong) = @$case;
    local $SIG{__WARN__} = sub { };
    is !!wrong_in($text), !!$is_wrong, 'checker: ' . ($text =~ s/\n/; /gr);
}

# A small site that has everything there is to be shown.
my $port = free_port();
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $nginx = Keepalive::Nginx->new(workers => 2, http => <<"END")->start;
$proxy_keepalive
upstream plain { server @{[ $backend->address ]}; server @{[ $backend->address(1) ]} backup; keepalive 4; }
upstream each { server @{[ $backend->address ]} max_conns=7; keepalive 4 per_server; }
upstream waits { server @{[ $backend->address ]} max_conns=1; queue 10 timeout=5s; keepalive 1; }
upstream carried { server 127.0.0.1:1; keepalive 4; http2 on; }
upstream ordinary { server 127.0.0.1:1; keepalive 4; http2 off; }
upstream unseen { server 127.0.0.1:1; }
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = /status/cached { expires 1h; keepalive_status; }
    location = /auth { internal; proxy_pass http://plain/; }
    location /plain { proxy_pass http://plain; }
    location /waits { proxy_pass http://waits; }
    location /asks { auth_subrequest /auth; proxy_pass http://each/; }
    location /named { try_files /nothing \@named; }
    location \@named { keepalive_status; }
}
END
get($port, $_) for qw(/plain /plain /asks /asks);
$_->finish for map { begin($port, '/waits?delay=20') } 1 .. 3;

# By the argument, or by what the client accepts.
my $accepts = sub { return map { "Accept: $_" } @_ };
for my $case (
    ['?format=json', 'json'], ['?format=prometheus', 'prometheus'], ['?format=html', 'html'],
    ['?a=b&format=json&c=d', 'json'], ['?x=1;format=json', 'html'], ['?xformat=json', 'html'], ['?format', 'html'],
    ['?format=', 406], ['?format=xml', 406], ['?format=JSON', 406], ['?format=json2', 406], ['?format=%00', 406],
    ['?format=json', 'json', 'text/html'], ['?format=prometheus', 'prometheus', 'image/png'], ['?format=xml', 406, '*/*'],
    ['', 'html'], ['', 'html', ''], ['', 'html', '*/*'], ['', 'html', 'text/*'],
    # A browser; Prometheus, older and newer.
    ['', 'html', 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8'],
    ['', 'prometheus', 'application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,'
        . 'text/plain;version=0.0.4;q=0.3,*/*;q=0.2'],
    ['', 'prometheus', 'application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,'
        . 'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;'
        . 'escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1'],
    ['', 'json', 'application/json'], ['', 'json', 'Application/JSON'], ['', 'json', 'application/*'],
    ['', 'prometheus', 'text/plain'], ['', 'prometheus', 'text/plain;charset=utf-8'],
    ['', 'json', 'text/html;q=0.5', 'application/json'], ['', 'json', 'application/json', 'text/html;q=0.5'],
    ['', 'prometheus', 'text/html;q=0.1, text/plain;q=0.2 ,application/json;q=0.15'],
    ['', 'json', 'text/html;q=0, */*'], ['', 'html', 'application/json;q=0.999,*/*'],
    ['', 'prometheus', 'text/plain; q=0.001, */*;q=0'],
    ['', 406, 'image/png'], ['', 406, 'application/json;q=0'], ['', 406, '*/*;q=0'], ['', 406, 'image/png', 'image/gif;q=0.5'],
    ['', 406, 'application/openmetrics-text'],
) {
    my ($query, $format, @accept) = @$case;
    my $answer = get($port, "/status$query", headers => [$accepts->(@accept)]);
    is format_of($answer), $format, "/status$query" . (@accept ? ', Accept: ' . join ' / ', @accept : '') or diag explain $answer;
    if ($format =~ /\d/) {
        like $answer->{body}, qr{^keepalive_status has the formats html, json and prometheus: .*\?format=prometheus, .* Accept: text/html, .*\n$},
            'which are named';
        is $answer->{headers}{'content-type'}, 'text/plain', 'as text';
        next;
    }
    is $answer->{headers}{'content-type'}, $type{$format}, "it is of the type of $format";
}
is format_of(get($port, '/named?format=json')), 'json', 'a named location';

# Headers.
for my $format (sort keys %type) {
    my $answer = get($port, "/status?format=$format");
    is $answer->{headers}{'cache-control'}, 'no-store', "$format: nobody is to keep it";
    is $answer->{headers}{'x-content-type-options'}, 'nosniff', "$format: it is what it says";
    my $policy = $answer->{headers}{'content-security-policy'};
    $format eq 'html' ? like $policy, qr/^default-src 'none';/, 'html: has a policy' : is $policy, undef, "$format: has no policy";
    unlike join("\n", @{ $answer->{lines} }), qr/^(?:ETag|Last-Modified|Accept-Ranges|Content-Length):/mi, "$format: it is never the same";

    # HEAD: the same headers, but for the length, which is not known.
    my $head = get($port, "/status?format=$format", method => 'HEAD');
    is $head->{body}, '', "$format, HEAD: no body";
    is_deeply [grep { !/^Date:/ } @{ $head->{lines} }], [grep { !/^(?:Date|Transfer-Encoding):/ } @{ $answer->{lines} }],
        "$format, HEAD: the same headers";
}
like join(' ', map { /^Cache-Control: *(.*)/i ? $1 : () } @{ get($port, '/status/cached?format=json')->{lines} }), qr/no-store/,
    'with expires: nobody is to keep it';

# Methods, bodies, and what only makes sense for files.
is get($port, '/status?format=json', method => $_)->{status}, 405, "$_ is not allowed" for qw(PUT DELETE OPTIONS PATCH PROPFIND);
is get($port, '/status?format=json', method => 'POST', body => $_)->{status}, 405, 'POST of ' . length($_) . ' bytes' for '', 'x', 'x' x 100000;
is format_of(get($port, '/status?format=json', body => 'x' x $_)), 'json', "GET with a body of $_ bytes" for 1, 100000;
is format_of(get($port, '/status?format=json', chunks => ['x' x 1000, 'y'])), 'json', 'GET with a body in chunks';
is format_of(get($port, '/status?format=json', headers => { Range => 'bytes=0-9' })), 'json', 'GET of a range';
is format_of(get($port, '/status?format=json', headers => { $_ => 'Fri, 20 Nov 2026 19:00:00 GMT' })), 'json', "GET, $_"
    for 'If-Modified-Since';
is get($port, '/status?format=json', headers => { 'If-Unmodified-Since' => 'Fri, 20 Nov 2026 19:00:00 GMT' })->{status}, 412,
    'GET, if something that is not known is so';
{
    # A body that comes later, when the client has its answer already; then another request.
    my $request = begin($port, '/status?format=json', content_length => 10, keep_alive => 1);
    my $first = '';
    wait_for { ($first .= $request->receive) =~ /\r\n0\r\n\r\n\z/ };
    is format_of(Keepalive::Client::parse($first)), 'json', 'GET with a body that is yet to come';
    $request->more('x' x 10 . "GET /status?format=prometheus HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    is format_of($request->finish), 'prometheus', 'and another one behind it';
}

# JSON has the fields that are documented, and no other.
sub keys_of { return join ' ', sort keys %{ $_[0] || {} } }

sub names { return join ' ', sort @_ }

sub check_histogram {
    my ($times, $title) = @_;
    is keys_of($times), names(qw(buckets count sum)), "$title: a histogram";
    is keys_of($times->{buckets}), names(@bounds), "$title: its bounds";
}

{
    my $json = JSON::PP::decode_json(get($port, '/status?format=json')->{body});
    is keys_of($json), names(qw(schema timestamp workers upstreams auth)), 'JSON: the document';
    is $json->{schema}, 1, 'JSON: the schema';
    cmp_ok abs($json->{timestamp} - time), '<', 5, 'JSON: the time';
    is $json->{workers}, 2, 'JSON: the workers';
    my $has_default = default_is_on();
    is keys_of($json->{upstreams}), names(qw(plain each waits carried ordinary), $has_default ? 'unseen' : ()), 'JSON: upstreams with a pool or a queue';
    for my $name (sort keys %{ $json->{upstreams} }) {
        my $upstream = $json->{upstreams}{$name};
        my @both = ('active', 'draining', @counters, keys %reasons);
        is keys_of($upstream), names(@both, qw(keepalive limit per_server zone hint handover peers), $name eq 'waits' ? 'queue' : (), $name eq 'carried' ? 'http2' : ()), "JSON: $name";
        is keys_of($upstream->{handover}), names(qw(in_transit asked answered dropped)), "JSON: $name, handover";
        is keys_of($upstream->{handover}{dropped}), names(@dropped), "JSON: $name, dropped";
        for my $peer (@{ $upstream->{peers} }) {
            is keys_of($peer), names(@both, qw(id server name backup down max_conns learned idle)), "JSON: $name, $peer->{server}";
            is keys_of($peer->{learned}), names(@learned), "JSON: $name, $peer->{server}, learned";
            is_deeply [grep { defined } values %{ $peer->{learned} }], [], 'JSON: nothing so far';
        }
        for my $of ($upstream, @{ $upstream->{peers} }) {
            is keys_of($of->{$_}), names(@{ $reasons{$_} }), "JSON: $name, $_" for sort keys %reasons;
        }
    }
    my ($first, $second) = @{ $json->{upstreams}{plain}{peers} };
    is_deeply [map { "$_->{id} $_->{server} $_->{name} " . ($_->{backup} ? 'backup' : '') } $first, $second],
        ['0 ' . $backend->address . ' ' . $backend->address . ' ', '1 ' . $backend->address(1) . ' ' . $backend->address(1) . ' backup'],
        'JSON: the servers';
    is_deeply [map { ref } @$first{qw(backup down)}, $json->{upstreams}{each}{per_server}], [('JSON::PP::Boolean') x 3], 'JSON: true and false';
    ok $json->{upstreams}{each}{per_server}, 'JSON: per_server';
    is $json->{upstreams}{each}{peers}[0]{max_conns}, 7, 'JSON: max_conns';
    is $json->{upstreams}{$_}{limit}, 4, "JSON: the limit of $_" for qw(plain each);
    my $queue = $json->{upstreams}{waits}{queue};
    is keys_of($queue), names(qw(size max_size requests overflows timeouts wait)), 'JSON: the queue';
    is $queue->{max_size}, 10, 'JSON: its size';
    # Of three requests to two workers, at least one waits.
    cmp_ok $queue->{requests}, '>=', 1, 'JSON: requests that have waited';
    is $queue->{wait}{count}, $queue->{requests}, 'JSON: for a known time';
    check_histogram($queue->{wait}, 'JSON: the queue');
    is keys_of($json->{upstreams}{carried}{http2}), names(qw(carriers streams), @http2), 'JSON: HTTP/2';
    is_deeply [grep { $_ != 0 } values %{ $json->{upstreams}{carried}{http2} }], [], 'JSON: no request was sent over it';
    is keys_of($json->{auth}), '/auth', 'JSON: URIs that authorise';
    is keys_of($json->{auth}{'/auth'}), names(qw(allowed denied failed timed_out failed_open time)), 'JSON: their numbers';
    is $json->{auth}{'/auth'}{allowed}, 2, 'JSON: two were allowed';
    check_histogram($json->{auth}{'/auth'}{time}, 'JSON: the decisions');

    my $text = get($port, '/status?format=prometheus')->{body};
    is join("\n", wrong_in($text)), '', 'Prometheus: nothing is wrong';
    my %families = $text =~ /^# TYPE (\S+) (\S+)$/mg;
    is_deeply \%families, {
        (map { ("nginx_upstream_keepalive_$_" => 'gauge') } qw(workers limit hint connections in_transit)),
        (map { ("nginx_upstream_keepalive_learned_$_" => 'gauge') } qw(idle_timeout_seconds idle_timeout_closes requests requests_closes)),
        (map { ("nginx_upstream_keepalive_${_}_total" => 'counter') } @counters, keys %reasons, qw(asked answered dropped)),
        (map { ("nginx_upstream_http2_$_" => 'gauge') } qw(carriers streams)),
        (map { ("nginx_upstream_http2_${_}_total" => 'counter') } @http2),
        (map { ("nginx_upstream_queue_$_" => 'gauge') } qw(size limit)),
        (map { ("nginx_upstream_queue_${_}_total" => 'counter') } qw(requests overflows timeouts)),
        nginx_auth_subrequest_decisions_total => 'counter',
        (map { ($_ => 'histogram') } qw(nginx_upstream_queue_wait_seconds nginx_auth_subrequest_duration_seconds)),
    }, 'Prometheus: what is documented';
    like $text, qr/^nginx_upstream_keepalive_limit\{upstream="each"\} 4$/m, 'Prometheus: a number that is known';
    is join(' ', $text =~ /^nginx_upstream_queue_wait_seconds_bucket\{upstream="waits",le="(.*)"\}/mg), "@bounds", 'Prometheus: the bounds';
    # A document for people has no numbers in it.
    unlike get($port, '/status?format=html')->{body}, qr/\Q@{[ $backend->address ]}\E/, 'HTML: it gets its numbers for itself';
}
$backend->drop;
$nginx->stop;

# Names. nginx takes all that can be written between quotes.
{
    # As they are, and as they are written in a configuration.
    my $written = sub { return '"' . ($_[0] =~ s/([\\"])/\\$1/gr) . '"' };
    my @names = ('', ' ', 'a b', 'a"b', "a'b", 'a\\b', 'a\\\\"', 'a\\n', "a\nb", "a\rb", "a\tb", 'a<b>',
        '</script><script>', '<!--', '&amp;', 'a{b="c"}',
        'a,b', 'a;b', 'a$b', '#a', 'a%b', 'a/b', 'a:1', "a\x01\x1f\x7f", "\xc3\xa9", "\xf0\x9f\x98\x80", "\xe2\x80\xa8", 'x' x 300);
    my $socket = 'unix:' . work_dir() . '/a"b\\c<d>&';
    my @uris = ('/a"b\\c', '/<a>&b', "/\xc3\xa9");
    my $locations = join '', map { "location /$_ { auth_subrequest " . $written->($uris[$_]) . "; }\n" } 0 .. $#uris;
    my $site = sub { return join("\n", map { 'upstream ' . $written->($_) . ' { server ' . $written->($socket) . '; keepalive 1; }' } @_)
        . "\nserver { listen 127.0.0.1:$port; location = /status { keepalive_status; } $locations }" };
    my $nginx = Keepalive::Nginx->new(http => '');
    my @refused = grep { !($nginx->verdict($site->($_)))[0] } @names;
    is_deeply \@refused, [], 'names: nginx takes them all';
    $nginx->configure(http => $site->(@names));
    $nginx->start;

    my $bytes = get($port, '/status?format=json')->{body};
    ok $bytes !~ /[\x00-\x1f](?!\z)/, 'names, JSON: no control characters';
    my $json = JSON::PP::decode_json($bytes);
    is_deeply [sort map { Encode::encode('UTF-8', $_) } keys %{ $json->{upstreams} }], [sort @names], 'names, JSON: all are told';
    is $json->{upstreams}{'a b'}{peers}[0]{$_}, $socket, "names, JSON: the $_" for qw(server name);
    is_deeply [sort map { Encode::encode('UTF-8', $_) } keys %{ $json->{auth} }], [sort @uris], 'names, JSON: URIs';

    my $text = get($port, '/status?format=prometheus')->{body};
    is join("\n", wrong_in($text)), '', 'names, Prometheus: nothing is wrong';
    my %unescape = (n => "\n", '\\' => '\\', '"' => '"');
    my $values = sub {
        my %seen = map { ((s/\\(.)/$unescape{$1}/gr) => 1) } $text =~ /[{,]$_[0]="((?:[^"\\]|\\.)*)"/g;
        return [sort keys %seen];
    };
    is_deeply $values->('upstream'), [sort @names], 'names, Prometheus: all are told';
    is_deeply $values->('server'), [$socket], 'names, Prometheus: the server';
    is_deeply $values->('uri'), [sort @uris], 'names, Prometheus: URIs';
    unlike get($port, '/status?format=html')->{body}, qr/a\{b="c"\}/, 'names, HTML: none is in the document';
    $nginx->stop;

    # What is not in UTF-8 can be shown as something else, but stays different.
    my @odd = ("a\xff", "a\xfe", "\xc3", "\xed\xa0\x80", "a\xc3\xa9\xff");
    $nginx->configure(http => $site->(@odd));
    $nginx->start;
    is scalar keys %{ JSON::PP::decode_json(get($port, '/status?format=json')->{body})->{upstreams} }, 5, 'names that are not in UTF-8: JSON';
    is join("\n", grep { !/^twice/ } wrong_in(get($port, '/status?format=prometheus')->{body})), '', 'names that are not in UTF-8: Prometheus';
    is scalar(grep { /^twice/ } wrong_in(get($port, '/status?format=prometheus')->{body})), 0, 'names that are not in UTF-8: each number once';
    $nginx->stop;
}

# keepalive_zone.
{
    my $nginx = Keepalive::Nginx->new(http => '', workers => 3);
    my $servers = join ' ', map { "server 127.0.0.1:$_;" } 1 .. 10;
    my $site = "upstream u { $servers keepalive 10; }\nserver { listen 127.0.0.1:$port; location = /status { keepalive_status; } }";
    my $says = sub {
        my ($accepted, $said) = $nginx->verdict(@_);
        return ($accepted ? 'accepted' : 'refused') . ($said eq '' ? '' : ": $said");
    };
    is $says->($site), 'accepted', 'zone: none is needed';
    for my $size ('x', '1x', '-1', '1.5k', '1kk', '""', '99999999999999999999', '9223372036854775807k', '9007199254740992m') {
        my $value = $size =~ s/"//gr;
        is $says->("keepalive_zone $size;\n$site"), qq(refused: invalid value "$value" in "keepalive_zone" directive, it must be a size, such as "1m" in "keepalive_zone $size;"),
            "zone: $size";
    }
    is $says->("$_\n$site"), qq(refused: invalid number of arguments in "keepalive_zone" directive in "$_"), "zone: $_"
        for 'keepalive_zone;', 'keepalive_zone 1m 2m;', 'keepalive_zone name 2m;';
    is $says->("keepalive_zone 1m;\nkeepalive_zone 2m;\n$site"), 'refused: "keepalive_zone" directive is duplicate in "keepalive_zone 2m;"',
        'zone: twice';
    is $says->("server {\nkeepalive_zone 1m;\n}\n$site"), 'refused: "keepalive_zone" directive is not allowed here in "keepalive_zone 1m;"',
        'zone: in server';
    is $says->("upstream v {\nkeepalive_zone 1m;\n}\n$site"), 'refused: "keepalive_zone" directive is not allowed here in "keepalive_zone 1m;"',
        'zone: in upstream';
    is $says->("server { location / {\nkeepalive_status json;\n} }\n$site"),
        'refused: invalid number of arguments in "keepalive_status" directive in "keepalive_status json;"', 'status: an argument';
    is $says->("$_->[0] {\nkeepalive_status;\n}\n$site"), 'refused: "keepalive_status" directive is not allowed here in "keepalive_status;"',
        "status: in $_->[0]" for ['server'], ['upstream v'];

    # A location has one content handler, whichever directive is the last one.
    my $beside = '"keepalive_status" %scannot be in a location with another directive that answers requests, such as "proxy_pass"%s in "keepalive_status;"';
    my @others = ('proxy_pass http://u;', 'stub_status;', 'empty_gif;', 'fastcgi_pass u;');
    for my $other (grep { !/stub/ || has_feature('with-http_stub_status_module') } @others) {
        is $says->("server { location / {\n$other\nkeepalive_status;\n} }\n$site"), 'refused: ' . sprintf($beside, 'directive ', ''), "status: after $other";
        is $says->("server { location / {\nkeepalive_status;\n$other\n} }\n$site"), 'refused: ' . sprintf($beside, '', ','), "status: before $other";
        is $says->("server { location / {\nkeepalive_status;\nlocation /a {\n$other\n}\n} }\n$site"), 'accepted', "status: around a location with $other";
        is $says->("server { location / {\n$other\nlocation = /a {\nkeepalive_status;\n}\n} }\n$site"), 'accepted', "status: in a location with $other";
    }
    is $says->("server { location / {\nkeepalive_status;\nkeepalive_status;\n} }\n$site"),
        'refused: "keepalive_status" directive is duplicate in "keepalive_status;"', 'status: twice';
    is $says->("server { location / {\nkeepalive_status;\n$_\n} }\n$site"), 'accepted', "status: with $_"
        for 'allow 127.0.0.1; deny all;', 'if ($arg_a) { return 403; }', 'error_page 406 = /;', 'root /;';

    # Too small: the size in the message is enough, and not too much.
    for my $size (0, 1, '1k', 4095) {
        my $bytes = $size eq '1k' ? 1024 : $size;
        like $says->("keepalive_zone $size;\n$site"),
            qr/^refused: "keepalive_zone" of $bytes bytes is too small, \d+k are needed with worker_processes 3 in "keepalive_zone $size;"$/,
            "zone: $size is too small";
    }
    my ($needed) = $says->("keepalive_zone 1;\n$site") =~ /(\d+)k are needed/;
    cmp_ok abs($needed * 1024 - 4 * (10 * 320 + 1152)), '<=', 1024, 'zone: what is needed is what the documentation says';
    is $says->("keepalive_zone ${needed}k;\n$site"), 'accepted', 'zone: what was said is enough';
    like $says->('keepalive_zone ' . ($needed - 1) . "k;\n$site"), qr/^refused: "keepalive_zone" of \d+ bytes is too small, ${needed}k/,
        'zone: less is not';
    is $says->("keepalive_zone $_;\n$site"), 'accepted', "zone: $_ is accepted" for '64K', '1m', '1000M';

    is $says->("keepalive_zone 9000000000000000;\n$site"),
        'refused: "keepalive_zone" cannot be had in "keepalive_zone 9000000000000000;" (12: Cannot allocate memory)',
        'zone: more than there is';

    # With it nginx works.
    $nginx->configure(http => "keepalive_zone ${needed}k;\n$site");
    $nginx->start;
    is format_of(get($port, "/status?format=$_")), $_, "zone: just enough, $_" for qw(json prometheus);
    $nginx->configure(http => "keepalive_zone 1000m;\n$site");
    my ($worker) = my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'zone: the old workers are gone';
    is format_of(get($port, "/status?format=$_")), $_, "zone: large, $_" for qw(json prometheus);
    memory_is_below memory_of(($nginx->workers)[0]), 100 * 1024, 'zone: what is not needed is not touched';

    # Too small for the new configuration: the old one goes on.
    $nginx->configure(http => "keepalive_zone 1k;\n$site");
    $nginx->signal('HUP');
    ok wait_for { $nginx->error_log =~ /"keepalive_zone" of 1024 bytes is too small/ }, 'zone: a reload with one that is too small is refused';
    is format_of(get($port, '/status?format=json')), 'json', 'zone: the old configuration answers';
    $nginx->allow(qr/"keepalive_zone" of 1024 bytes/);
    $nginx->stop;

    # worker_processes comes after http: nginx warns if the zone is too small, and allocates what it needs.
    my $text = sub { my ($size) = @_; my $dir = $nginx->dir;
        return "load_module x;\nuser x;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log info;\nevents {}\nhttp {\naccess_log off;\n"
            . "keepalive_zone $size;\n$site\n}\nworker_processes 3;\n" };
    $nginx->configure(text => $text->("${needed}k"));
    my ($accepted, $output) = $nginx->test;
    ok $accepted && $output !~ /\[warn\]/, 'zone: enough, and worker_processes behind http' or diag $output;
    $nginx->configure(text => $text->(($needed - 1) . 'k'));
    ($accepted, $output) = $nginx->test;
    ok $accepted, 'zone: too small, and worker_processes behind http: is accepted';
    like $output, qr/\[warn\].*"keepalive_zone" is too small with worker_processes 3, \d+k are used/, 'and nginx says so' or diag $output;
    quietly(sub { $nginx->start });
    is JSON::PP::decode_json(get($port, '/status?format=json')->{body})->{workers}, 3, 'and counts in all workers';
    $nginx->stop;
    $nginx->configure(text => $text->('1'));
    ($accepted, $output) = $nginx->test;
    my ($line) = $output =~ /\[emerg\] "keepalive_zone" of 1 bytes is too small, \d+k are needed with worker_processes 1 in \S+:(\d+)$/m;
    is $nginx->line($line // 0), 'keepalive_zone 1;', 'zone: too small for any number';
}

# With servers that come and go all of the zone can be of use.
SKIP: {
    skip 'resolve in the free edition needs 1.27.3', 1 unless version_at_least('1.27.3');
    my $site = "resolver 127.0.0.1:$port; upstream u { zone u 128k; server localhost:81 resolve; keepalive 4; }"
        . " server { listen 127.0.0.1:$port; location = /status { keepalive_status; } location = /small { return 200 small; } }";
    my $nginx = Keepalive::Nginx->new(http => "keepalive_zone 400m; $site")->start;
    is format_of(get($port, '/status?format=json')), 'json', 'zone, resolve: a large one';
    memory_is_below memory_of(($nginx->workers)[0]), 100 * 1024, 'zone, resolve: what is not needed is not touched';
    $nginx->stop;

}

# Without nginx's messages to the terminal.
sub quietly {
    my ($what) = @_;
    open my $stderr, '>&', \*STDERR or die $!;
    open STDERR, '>', '/dev/null' or die $!;
    $what->();
    open STDERR, '>&', $stderr or die $!;
}

done_testing;
