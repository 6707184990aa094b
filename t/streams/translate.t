# http2: an HTTP/1.1 request of nginx's proxy module becomes a stream and its answer HTTP/1.1 again, with all of their parts, over
# one connection.
#
# faults: F7.4 "1xx: the answer" "HEAD: no body, its length" "204: no body" "304: no body"
# faults: F7.6 "trailers: the body is whole" ", not buffered: the server has all"
# faults: F8.1 "an early answer: it arrives"
# faults: F22.7 "there and back"
# faults: F22.9 "a client writes line ends"
# faults: F4.2 "what HTTP/2 cannot carry is no failure of a server"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my $server = Keepalive::Streams->start;
my $two = Keepalive::Streams->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my $port = free_port();
my $trailers = version_at_least('1.27.2') ? 'proxy_pass_trailers on;' : '';
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_cache_path @{[ work_dir() ]}/cache keys_zone=cache:1m;
client_max_body_size 10m;
client_body_buffer_size 64k;
large_client_header_buffers 8 64k;
upstream u { server @{[ $server->address ]}; keepalive 4; http2 on; }
upstream two { server @{[ $two->address(0) ]}; server @{[ $two->address(1) ]}; keepalive 4; http2 on; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://u; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; }
    location /unbuffered { proxy_pass http://u; proxy_request_buffering off; proxy_buffering off; }
    location /upload { proxy_pass http://u; proxy_request_buffering off; }
    location /slow { proxy_pass http://u; proxy_limit_rate 2m; }
    location /cached { proxy_pass http://u; proxy_cache cache; proxy_cache_valid 1m; add_header X-Cache \$upstream_cache_status; }
    location /small { proxy_pass http://u; proxy_buffer_size 1k; proxy_buffers 4 1k; proxy_busy_buffers_size 1k; }
    location /named {
        proxy_pass http://u;
        proxy_set_header Host www.example.com:81;
        proxy_set_header X-Own "a  value; with, signs: \\"";
        proxy_set_header X-Empty "";
    }
    location /te { proxy_pass http://u; proxy_set_header Connection "te"; proxy_set_header TE "trailers"; $trailers }
    location /closing { proxy_pass http://u; proxy_set_header Connection "close"; }
    location /spaces { proxy_pass http://u; proxy_set_header X-Spaces "  a b\t "; }
    location /uri { proxy_set_header X-Uri \$uri; proxy_pass http://u/?echo=1; }
    location /two { proxy_pass http://two; }
    location /rewritten/ { proxy_pass http://u/else/; }
}
END

my $large = join '', map { sprintf '%07d,', $_ } 1 .. 131_072;
my %plain = (headers => { Accept => '*/*', 'User-Agent' => 'test' });

# The first value of a field, as the server has it.
sub first { ($_[0]{ $_[1] } // [])->[0] // '(none)' }

# Requests.
{
    my $answer = get($port, '/path/a?echo=1&b=%20c', %plain);
    is $answer->{status}, 200, 'GET is answered';
    my $echo = echo_of($answer);
    is_deeply $echo, {
        ':method' => ['GET'], ':scheme' => ['http'], ':path' => ['/path/a?echo=1&b=%20c'], ':authority' => ['u'],
        accept => ['*/*'], 'user-agent' => ['test'], body => 'body of 0 bytes, sum 0',
    }, 'the server has the request, and nothing that belongs to a connection' or diag explain $echo;

    for my $method (qw(POST PUT DELETE PATCH OPTIONS PURGE)) {
        $echo = echo_of(get($port, '/?echo=1', method => $method));
        is first($echo, ':method'), $method, "$method without a body";
        is $echo->{body}, 'body of 0 bytes, sum 0', "$method: no body";
        $echo = echo_of(get($port, '/?echo=1', method => $method, body => 'some text'));
        is "$echo->{body}, " . first($echo, 'content-length'), 'body of 9 bytes, sum ' . sum_of('some text') . ', 9',
            "$method with a body";
    }

    $echo = echo_of(get($port, '/named?echo=1'));
    is first($echo, ':authority'), 'www.example.com:81', 'the name of the server';
    is first($echo, 'x-own'), 'a  value; with, signs: "', 'a value with signs';
    ok !$echo->{host} && !$echo->{'x-empty'}, 'no field host, and none that is empty';
    $echo = echo_of(get($port, '/closing?echo=1'));
    ok !$echo->{connection}, 'Connection: close is not passed on';
    $echo = echo_of(get($port, '/te?echo=1'));
    is first($echo, 'te') . ($echo->{connection} ? ' connection' : ''), 'trailers', 'TE: trailers is';
    $echo = echo_of(get($port, '/spaces?echo=1'));
    is first($echo, 'x-spaces'), 'a b', 'blanks around a value are not';
    is first(echo_of(get($port, '/rewritten/x?echo=1')), ':path'), '/else/x?echo=1', 'a path that proxy_pass has changed';

    $echo = echo_of(get($port, '/?echo=1', headers => ['Cookie: a=1; b=2', 'X-Twice: one', 'X-Twice: two', 'Keep-Alive: 3',
        'Proxy-Connection: keep-alive', 'Upgrade-Insecure-Requests: 1', 'X_low: dropped', 'Transfer: x']));
    is join('; ', @{ $echo->{cookie} }), 'a=1; b=2', 'a cookie';
    is_deeply $echo->{'x-twice'}, ['one', 'two'], 'a header that comes twice';
    is first($echo, 'upgrade-insecure-requests') . first($echo, 'transfer'), '1x', 'headers with similar names stay';
    is join(' ', grep { /^(?:keep-alive|proxy-connection|connection|host|transfer-encoding)$/ } sort keys %$echo), '',
        'those of a connection do not';

    for my $length (10_000, 40_000) {
        $echo = echo_of(get($port, '/?echo=1', headers => { 'X-Long' => 'l' x $length }));
        is length first($echo, 'x-long'), $length, "a header of $length bytes";
    }
    my $path = '/' . 'p' x 8000;
    is first(echo_of(get($port, "$path?echo=1")), ':path'), "$path?echo=1", 'a path of 8,000 bytes';
}

# Bodies of requests.
for my $location ('/', '/upload', '/unbuffered') {
    for my $length (1, 16_384, 65_535, 65_536, length $large) {
        my $body = substr $large, 0, $length;
        my $title = "$location, $length bytes";
        my $answer = get($port, "$location?reflect=1", method => 'POST', body => $body);
        ok $answer->{status} == 200 && $answer->{body} eq $body, "$title: there and back";
        my @chunks = unpack '(a10000)*', $body;
        my $echo = echo_of(get($port, "$location?echo=1", method => 'POST', chunks => \@chunks));
        is $echo->{body}, "body of $length bytes, sum " . sum_of($body), "$title: in chunks"
            . ($location eq '/' ? '' : ', not buffered: the server has all');
        ok !$echo->{'transfer-encoding'}, "$title: without the chunks of HTTP/1.1";
    }
}

# In the client's own pace.
for my $location ('/', '/upload') {
    my $request = begin($port, "$location?reflect=1", method => 'POST', content_length => 30_000);
    for (1 .. 3) {
        $request->more(substr $large, ($_ - 1) * 10_000, 10_000);
        select undef, undef, undef, 0.05;
    }
    is $request->finish->{body}, substr($large, 0, 30_000), "$location: a body in three parts";
}

# Answers.
for my $script ('', '&compact=1', '&pad=17', '&split=7', '&pad=255&frame=100') {
    my $length = $script =~ /frame/ ? 20_000 : 1_000_000;
    for my $location ('/', '/unbuffered', '/slow') {
        for my $framing ('', '&length=none') {
            my $answer = get($port, "$location?len=$length&body=0123456789$script$framing");
            ok $answer->{complete} && $answer->{body} eq '0123456789' x ($length / 10),
                "$location?$script$framing: a body of $length bytes" or diag "$answer->{status}, ", length $answer->{body};
            is $answer->{headers}{'content-length'} // 'none', $framing ? 'none' : $length, 'its length';
        }
    }
}
{
    my $answer = get($port, '/?status=404&header=X-Nothing:&header=set-cookie:a=1&header=set-cookie:b=2&header=date:today'
        =~ s/X-Nothing/x-nothing/r);
    is $answer->{status}, 404, 'another status';
    is_deeply [grep { /^set-cookie/i } @{ $answer->{lines} }], ['set-cookie: a=1', 'set-cookie: b=2'], 'two headers of a name';
    is $answer->{headers}{'x-nothing'}, '', 'a header without a value';
    is get($port, '/?status=599')->{status}, 599, 'a status without a name';
    is get($port, '/?len=0')->{body}, '', 'an empty body';
    my $empty = get($port, '/?len=0&length=none');
    ok $empty->{status} == 200 && $empty->{complete} && $empty->{body} eq '', 'an empty body without a length';

    $answer = get($port, '/?fill=10000');
    is length($answer->{headers}{'x-fill'} // ''), 10_000, 'a header of 10,000 bytes';
    is length(get($port, '/?fill=40000')->{headers}{'x-fill'} // ''), 40_000, 'a header of 40,000 bytes, in several frames';
    is get($port, '/small?fill=10000')->{status}, 502, 'one that is larger than proxy_buffer_size';
    is get($port, '/small?len=100000')->{status}, 200, 'and the next one';

    for my $interim ('100', '103', '103,103,100') {
        $answer = get($port, "/?interim=$interim&len=10");
        is "$answer->{status} $answer->{body}", '200 xxxxxxxxxx', "1xx: the answer after $interim";
        ok !$answer->{headers}{'x-interim'}, '1xx: its headers are not mixed up with the answer';
    }
    $answer = get($port, '/?len=1000', method => 'HEAD');
    is "$answer->{status} $answer->{headers}{'content-length'} '$answer->{body}'", "200 1000 ''", 'HEAD: no body, its length';
    $answer = get($port, '/?status=204');
    is "$answer->{status} '$answer->{body}'", "204 ''", '204: no body';
    ok !defined $answer->{headers}{'content-length'} && !$answer->{headers}{'transfer-encoding'}, '204: no framing';
    $answer = get($port, '/?status=304&header=etag:%22a%22');
    is "$answer->{status} '$answer->{body}' $answer->{headers}{etag}", q(304 '' "a"), '304: no body';
    is get($port, '/?status=304&length=5')->{status}, 304, '304: the length of what is not sent';
    for my $framing ('length=none', 'a=b') {
        $answer = get($port, "/?len=1000&$framing&trailer=x-sum:5");
        ok $answer->{status} == 200 && $answer->{complete} && $answer->{body} eq 'x' x 1000, 'trailers: the body is whole';
    }
    $answer = get($port, '/?len=0&trailer=x-sum:5');
    ok $answer->{status} == 200 && $answer->{complete}, 'trailers: without a body';
}

SKIP: {
    skip 'nginx does not pass on trailers', 1 unless $trailers;
    my $request = begin($port, '/te?len=5&length=none&trailer=x-sum:5', headers => { TE => 'trailers' });
    my $bytes = '';
    while (length(my $more = $request->receive)) { $bytes .= $more }
    like $bytes, qr/\r\n0\r\nx-sum: 5\r\n\r\n\z/i, 'trailers are passed on';
}

# The server answers before it has read the body: the stream ends, the connection does not.
for my $location ('/', '/upload') {
    for my $early ('early=1&credit=connection', 'early=reset', 'early=1&status=413') {
        my $before = get($port, '/')->{headers}{'x-connection'};
        my $answer = get($port, "$location?$early&len=100", method => 'POST', body => $large);
        is "$answer->{body}", 'x' x 100, "$location?$early, an early answer: it arrives";
        is get($port, '/')->{headers}{'x-connection'}, $before, "$location?$early: the connection stays";
    }
}

# The cache, with what it has stored and with what has to be asked for again.
{
    my @answers = map { get($port, '/cached?len=300000&header=accept-ranges:bytes') } 1, 2;
    is join(' ', map { $_->{headers}{'x-cache'} } @answers), 'MISS HIT', 'the cache has it';
    is $answers[1]{body}, $answers[0]{body}, 'the same body';
    is get($port, '/cached?len=300000&header=accept-ranges:bytes', headers => { Range => 'bytes=10-19' })->{status}, 206, 'and a part of it';
}

# Here a client writes line ends into its path, and an own header of nginx repeats it. nginx does not refuse that; the server must never
# get a line end in a value.
for my $sign (qw(%0a %0d %00 %0d%0aInjected:%20yes %7f)) {
    my $answer = get($port, "/uri/a$sign");
    like $answer->{status}, qr/^(?:200|400|50[02])$/, "$sign in a value: $answer->{status}";
}

# What HTTP/2 cannot carry is not tried at one server after the other, and takes none out of service.
{
    for my $warm (0, 1) {
        my ($requests, $before) = ($two->requests, length $nginx->error_log);
        is get($port, '/two', method => $_, headers => { 'X-Sign' => "a\x01b" })->{status}, 502, "a control character in a value: $_ fails"
            for qw(GET POST);
        is $two->requests, $requests, 'neither server gets it';
        my @lines = grep { /invalid field value/ } split /\n/, substr $nginx->error_log, $before;
        is scalar(@lines), 2, 'the log has one line for each' or diag @lines;
        is join(' ', map { get($port, '/two')->{status} } 1 .. 4), '200 200 200 200', 'what HTTP/2 cannot carry is no failure of a server';
        cmp_ok $two->requests($_), '>=', 2, "server $_ is in service" for 0, 1;
    }
    my @disabled = grep { /temporarily disabled/ } split /\n/, $nginx->error_log;
    is @disabled, 0, 'no server is taken for failed' or diag @disabled;
    $two->rules_are_kept;
}

is get($port, '/')->{status}, 200, 'all is well';
is scalar(grep { $_->{is_open} } $server->carriers), 1, 'one connection';
cmp_ok scalar($server->carriers), '<=', 8, 'and few before it';
is scalar($server->ordinary), 0, 'none of HTTP/1.1';
$server->rules_are_kept;
$nginx->stop;
done_testing;
