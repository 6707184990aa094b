# What the authorisation server sees of a request: its header by default, and its body with auth_subrequest_body.
#
# faults: F20.4 "the site has all" "by its body"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Setup;

needs_module();

my $http2_port = free_port();
my $http2 = http2_listen($http2_port);
my $dav = has_feature('with-http_dav_module');
my $log = work_dir() . '/requests.log';
my $fastcgi = Keepalive::Backend->start(protocol => 'fastcgi');
my $site = Keepalive::Auth->new(http => <<'END', locations => <<"END2")->start;
client_max_body_size 20m;
client_body_buffer_size 16k;
log_format short '$uri $status $server_protocol';
END
    @{[ $http2 // '' ]}
    access_log $log short;
    location / { auth_subrequest /auth; proxy_pass http://app; }
    location /unbuffered { auth_subrequest /auth; proxy_request_buffering off; proxy_pass http://app; }
    location /named { auth_subrequest /lengths; proxy_pass http://app; }
    location = /lengths {
        internal;
        proxy_set_header Connection "";
        proxy_set_header Content-Length \$http_content_length;
        proxy_set_header X-Length "\$content_length \$http_content_length";
        proxy_set_header X-Type \$content_type;
        proxy_set_header X-Method "\$request_method \$request_uri";
        proxy_pass http://auth/?\$http_x_auth;
    }
    location /arguments { auth_subrequest /asked/with?x=1&y=2; proxy_pass http://app; }
    location /asked/ { internal; proxy_pass http://auth; }

    location /body { auth_subrequest_body 100k; auth_subrequest /auth; proxy_pass http://app; }
    location /body/ {
        auth_subrequest_body 100k;
        auth_subrequest /auth;
        location /body/unbuffered { proxy_request_buffering off; proxy_pass http://app; }
        location /body/file { client_body_in_file_only clean; proxy_pass http://app; }
        location /body/memory { client_body_buffer_size 200k; proxy_pass http://app; }
        location /body/redirected { try_files /none \@app; }
        location /body/static { empty_gif; }
        location /body/off { auth_subrequest_body 0; proxy_pass http://app; }
        @{[ $dav ? 'location /body/dav { client_body_in_file_only clean; dav_methods PUT; alias ' . work_dir() . '/; }' : '' ]}
        location /body/return { auth_subrequest /allow; proxy_pass http://app; }
        location /body/unreadable { error_page 400 /body/error; proxy_pass http://app; }
        location /body/fastcgi { auth_subrequest /fastcgi-auth; proxy_pass http://app; }
    }
    location \@app { proxy_pass http://app; }
    location = /allow { internal; return 204; }
    location /ten { auth_subrequest_body 10; auth_subrequest /auth; proxy_pass http://app; }
    location /ten/error { auth_subrequest_body 10; auth_subrequest /auth; error_page 413 /too-large; proxy_pass http://app; }
    location = /too-large { return 200 'too large'; }

    location /fastcgi { auth_subrequest /fastcgi-auth; proxy_pass http://app; }
    location = /fastcgi-auth {
        internal;
        fastcgi_param REQUEST_METHOD \$request_method;
        fastcgi_param CONTENT_LENGTH \$content_length;
        fastcgi_param QUERY_STRING \$http_x_auth;
        fastcgi_pass @{[ $fastcgi->address ]};
    }
END2

# The two requests of an authorised one, in short: the start line, the framing headers and the body of each.
sub seen {
    my ($name) = @_;
    my $request = $site->{$name}->last_request;
    my @framing = map { my $n = $_; map { "$n: $_" } values_of($n, $request) } qw(Content-Length Transfer-Encoding);
    return join ', ', $request->{line}, @framing, $request->{body} ne '' ? $request->{body} : ();
}

my %post = (method => 'POST', body => 'a body', headers => ['Content-Type: text/x-form']);

# Without a body.
is $site->status('/', 'status=204', %post), 200, 'POST: authorised';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'POST: the question is a GET without a body';
is seen('app'), 'POST / HTTP/1.1, Content-Length: 6, a body', 'POST: the site has all';
is $site->status('/', 'status=204', method => 'PUT', chunks => ['some ', 'chunks']), 200, 'chunked: authorised';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'chunked: the question is a GET without a body';
is seen('app'), 'PUT / HTTP/1.1, Content-Length: 11, some chunks', 'chunked: the site has all';
is $site->status('/unbuffered', 'status=204', method => 'POST', body => 'x' x 100_000), 200, 'unbuffered: authorised';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'unbuffered: the question is a GET without a body';
is $site->get('/unbuffered', 'status=204', method => 'POST', chunks => ['x' x 70_000])->{headers}{'x-body-length'},
    70_000,
    'unbuffered and chunked: the site has all';

is $site->status('/named', 'status=204', %post), 200, 'a length by proxy_set_header: authorised';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'there is none to name';
my $question = $site->{auth}->last_request;
like((values_of('X-Length', $question))[0] // '', qr/^\s*$/, 'nor by variables');
is((values_of('X-Type', $question))[0], 'text/x-form', 'the type of the body may be known');
like((values_of('X-Method', $question))[0], qr{ /named$}, 'and so is the URI');
is $site->status('/arguments', '', %post), 200, 'a location with arguments';
is seen('auth'), 'GET /asked/with?x=1&y=2 HTTP/1.1', 'they come along';

# Conditions and ranges are about the site's answer, other headers about the client.
my @conditions = ('Range: bytes=0-1', 'If-Range: "a"', 'If-Modified-Since: Fri, 20 Nov 2026 19:00:00 GMT',
    'If-Unmodified-Since: Fri, 20 Nov 2026 19:00:00 GMT', 'If-Match: "b"', 'If-None-Match: "c"');
my @others = ('Cookie: a=b', 'Authorization: Bearer t', 'Accept: text/html', 'User-Agent: test', 'X-Own: own',
    'X-Own: twice');
is $site->status('/', 'status=204', headers => [@conditions, @others]), 200, 'conditions';
my ($asked, $served) = map { $site->{$_}->last_request->{headers} } qw(auth app);
is join('; ', grep { /^(?:Range|If-)/i } @$asked), '', 'the question has none';
is join('; ', grep { /^(?:Range|If-)/i } @$served), join('; ', @conditions), 'the site has them all';
for my $header (@others) {
    ok scalar(grep { $_ eq $header } @$asked), "the question has $header";
}
$site->asked;
is $site->status('/', 'status=204', %post, headers => ['Expect: 100-continue']), 100,
    'Expect: the client is told to go on';
is $site->asked, 'auth 1, app 1', 'Expect: and served';
is join('; ', grep { /^Expect/i } @{ $site->{auth}->last_request->{headers} }), '', 'Expect: the question has none';

# With the body: as it came, whichever way, and then to the site as well.
for my $way ('', '/unbuffered', '/file', '/memory', '/redirected') {
    for my $length (1, 1000, 16_384, 16_385, 60_000) {
        my $body = join '', map { chr 32 + $_ % 90 } 1 .. $length;
        my $answer = $site->get("/body$way", 'status=204', method => 'POST', body => $body);
        is $answer->{status}, 200, "/body$way, $length bytes: authorised";
        ok seen('auth') eq "POST /?status=204 HTTP/1.1, Content-Length: $length, $body",
            "/body$way, $length bytes: by its body"
            or diag substr seen('auth'), 0, 200;
        ok seen('app') eq "POST /body$way HTTP/1.1, Content-Length: $length, $body",
            "/body$way, $length bytes: so has the site"
            or diag substr seen('app'), 0, 200;
    }
    my $answer = $site->get("/body$way", 'status=204', method => 'PUT', chunks => ['abc', 'x' x 30_000, 'def']);
    is $answer->{status}, 200, "/body$way, chunked: authorised";
    ok seen('auth') eq 'PUT /?status=204 HTTP/1.1, Content-Length: 30006, abc' . 'x' x 30_000 . 'def',
        "/body$way, chunked: whole"
        or diag substr seen('auth'), 0, 200;
    is $answer->{headers}{'x-body-length'}, 30_006, "/body$way, chunked: the site has it, too";
    is $site->status("/body$way", 'status=403', method => 'POST', body => 'x' x 50_000), 403, "/body$way: denied";
    is $site->status("/body$way", 'status=204'), 200, "/body$way, no body: authorised";
    is seen('auth'), 'GET /?status=204 HTTP/1.1', "/body$way, no body: none is announced";
}
is $site->status('/body', 'status=204', method => 'POST', body => ''), 200, 'an empty body';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'is no body';
is $site->status('/body', 'status=204', method => $_), 200, "$_ without a body" for qw(HEAD OPTIONS DELETE);
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'is asked about with a GET';
is $site->get('/body/return', '', %post)->{headers}{'x-body-length'}, 6, 'an auth location that reads no body';
is $site->status('/body/static', 'status=403', %post), 403, 'a location that reads no body';
is seen('auth'), 'POST /?status=403 HTTP/1.1, Content-Length: 6, a body', 'still the question has it';
SKIP: {
    skip 'no WebDAV', 1 unless $dav;
    is $site->status('/body/dav/file', 'status=204', method => 'PUT', body => 'a body'), 201, 'a location that wants a file';
}
is $site->status('/body/off', 'status=204', %post), 200, 'switched off';
is seen('auth'), 'GET /?status=204 HTTP/1.1', 'as without it';

# A body that comes in pieces is waited for; a client that does not send it all is never asked about.
$site->asked;
my $slow = $site->begin('/body', 'status=204', method => 'POST', content_length => 10, body => 'part ');
$site->get('/settled', '') for 1, 2;
is $site->asked, 'auth 0, app 0', 'half a body: no question yet';
$slow->more('other');
is $slow->finish->{status}, 200, 'the other half: authorised';
is seen('auth'), 'POST /?status=204 HTTP/1.1, Content-Length: 10, part other', 'by both halves';
$site->asked;
$site->begin('/body', 'status=204', method => 'POST', content_length => 10, body => 'part')->abort;
$site->get('/settled', '') for 1 .. 3;
is $site->asked, 'auth 0, app 0', 'a client that leaves';

# The limit.
for my $way ([body => 'x'], [chunks => ['x']]) {
    my ($how, $unit) = @$way;
    my $of = sub { my ($n) = @_; ref $unit ? [('x') x $n] : 'x' x $n };
    is $site->status('/ten', 'status=204', method => 'POST', $how => $of->(10)), 200, "$how: ten bytes of ten";
    $site->asked;
    $site->log_since;
    is $site->status('/ten', 'status=204', method => 'POST', $how => $of->(11)), 413, "$how: eleven";
    like $site->log_since, qr/\[error\].*client intended to send too large body to be authorised: 11 bytes/, "$how: eleven: logged";
    is $site->asked, 'auth 0, app 0', "$how: nobody is asked";
    is $site->get('/ten/error', '', method => 'POST', $how => $of->(11))->{body}, 'too large', "$how: error_page 413";
    my $denied = $site->begin('/ten', 'status=204', method => 'POST', $how => $of->(20_000));
    is $denied->finish->{status}, 413, "$how: far too much";
}
my $expects = $site->begin('/ten', '', method => 'POST', content_length => 11, headers => ['Expect: 100-continue']);
like $expects->receive, qr{^HTTP/1.1 413 }, 'Expect: too much is refused before it is sent';
$expects->abort;
$expects = $site->begin('/ten', 'status=204', method => 'POST', content_length => 10,
    headers => ['Expect: 100-continue']);
like $expects->receive, qr{^HTTP/1.1 100 }, 'Expect: what is not too much may come';
$expects->more('x' x 10);
is $expects->finish->{status}, 200, 'Expect: and is authorised';
my $first = $site->begin('/body', 'status=204', method => 'POST', body => 'first', keep_alive => 1);
like $first->receive, qr{^HTTP/1.1 200 }, 'keep-alive: the first request';
my $second = $site->begin('/body', 'status=204', method => 'POST', body => 'second', keep_alive => 1,
    over => $first->{socket});
like $second->receive, qr{^HTTP/1.1 200 }, 'keep-alive: the second one';
is seen('auth'), 'POST /?status=204 HTTP/1.1, Content-Length: 6, second', 'keep-alive: with its own body';

SKIP: {
    skip 'no HTTP/2', 4 unless $http2;
    my @auth = ('-H', 'X-Auth: status=204', '-H', 'Content-Type: text/plain');
    is curl($http2_port, '/', @auth, '-d', 'by HTTP/2')->{status}, 200, 'HTTP/2, without the body';
    is seen('auth'), 'GET /?status=204 HTTP/1.1', 'HTTP/2, without the body: a GET';
    is curl($http2_port, '/body', @auth, '-d', 'by HTTP/2')->{headers}{'x-body-length'}, 9,
        'HTTP/2: the site has the body';
    is seen('auth'), 'POST /?status=204 HTTP/1.1, Content-Length: 9, by HTTP/2', 'HTTP/2: and so has the question';
    # Without an announced length, from a pipe.
    my $upload = sub {
        my ($path, $length) = @_;
        my $file = work_dir() . '/uploaded';
        open my $out, '>', $file or die $!;
        print $out 'y' x $length;
        close $out;
        open my $stdin, '<&', \*STDIN or die $!;
        open STDIN, '-|', 'cat', $file or die $!;
        my $answer = curl($http2_port, $path, @auth, '-X', 'PUT', '-T', '-');
        open STDIN, '<&', $stdin or die $!;
        return $answer;
    };
    is $upload->('/body', 30_000)->{status}, 200, 'HTTP/2, no length: authorised';
    is seen('auth'), 'PUT /?status=204 HTTP/1.1, Content-Length: 30000, ' . 'y' x 30_000, 'HTTP/2, no length: whole';
    # nginx resets the stream after such an answer, and some versions of curl then lose it.
    curl($http2_port, '/ten/announced', @auth, '-d', 'x' x 11);
    $upload->('/ten/piped', 11);
    my $logged = sub { open my $in, '<', $log or return ''; join '', <$in> };
    ok wait_for { $logged->() =~ m{^/ten/$_ 413 HTTP/2}m }, "HTTP/2, too large: $_" for qw(announced piped);
}

# A body that is no body: the page for it is elsewhere, where the body would be asked about again.
for my $case (['at once', "\r\n\r\nno size"], ['later', '']) {
    my ($when, $behind) = @$case;
    my $request = $site->begin('/body/unreadable', 'status=204', method => 'POST', timeout => 3,
        headers => ["Transfer-Encoding: chunked$behind"]);
    $request->more("no size\r\n") if $when eq 'later';
    is $request->finish->{status}, 400, "a body that cannot be read, $when: refused";
}

# FastCGI: the same with its own directives. ($request_method is always the client's.)
for my $case (['/fastcgi', qr/CONTENT_LENGTH(?!6)/, qr/a body/], ['/body/fastcgi', qr/CONTENT_LENGTH6.*a body/s,
    qr/GET/]) {
    my ($path, $has, $lacks) = @$case;
    is $site->status($path, 'status=200', %post), 200, "$path: authorised";
    my $record = $fastcgi->control('/last');
    like $record, $has, "$path: the question";
    unlike $record, $lacks, "$path: and nothing else";
    is seen('app'), "POST $path HTTP/1.1, Content-Length: 6, a body", "$path: the site has the body";
    is $site->status($path, 'status=403', %post), 403, "$path: denied";
}

$site->expect_no_connection('at the end');
$site->stop;
done_testing;
