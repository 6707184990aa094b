# auth_subrequest_pass_body: the client gets the body of a denial as the authorisation server sent it.
#
# faults: F20.2 "the site was never asked"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $http2_port = free_port();
my $http2 = http2_listen($http2_port);
my $cache = work_dir() . '/cache';
my $site = Keepalive::Auth->new(http => "proxy_cache_path $cache keys_zone=decisions:1m;", locations => <<"END")->start;
    @{[ $http2 // '' ]}
    auth_subrequest /auth;
    auth_subrequest_pass_status 302 401 403 429 503;
    auth_subrequest_pass_body 1k;
    location / { proxy_pass http://app; }
    location /off { auth_subrequest_pass_body 0; proxy_pass http://app; }
    location /large { auth_subrequest_pass_body 1m; proxy_pass http://app; }
    location /page { error_page 403 /denied; proxy_pass http://app; }
    location = /denied { auth_subrequest off; return 200 'the error page'; }
    location /again { error_page 403 /elsewhere; proxy_pass http://app; }
    location /from-error { auth_subrequest off; error_page 404 /; return 404; }
    location /from-status { auth_subrequest off; error_page 404 =200 /; return 404; }
    location /from-site { auth_subrequest off; proxy_intercept_errors on; error_page 404 =302 /; proxy_pass http://app/?status=404; }
    location /satisfy { satisfy any; deny all; proxy_pass http://app; }
    location /unbuffered { auth_subrequest /unbuffered-auth; proxy_pass http://app; }
    location = /unbuffered-auth { internal; proxy_buffering off; proxy_pass http://auth/?\$http_x_auth; }
    location /cached { auth_subrequest /cached-auth; proxy_pass http://app; }
    location = /cached-auth {
        internal;
        proxy_cache decisions;
        proxy_cache_key \$http_x_auth;
        proxy_cache_valid 200 401 403 10s;
        proxy_pass http://auth/?\$http_x_auth;
    }
    location /gzip { gzip on; gzip_min_length 1; gzip_types application/json; proxy_pass http://app; }
    location /file { auth_subrequest /return-json; proxy_pass http://app; }
    location = /return-json { internal; default_type application/json; return 403 '{"by":"return"}'; }
END

my $json = '{"error":"who are you?"}';
my @json = (header => 'Content-Type:application/json', body => $json);
my $nginx_page = qr{<center>nginx};

# An answer in short: status, type, encoding, body; "page" for one of nginx's.
sub told {
    my ($answer) = @_;
    my $body = $answer->{body} =~ $nginx_page ? 'page' : $answer->{body};
    return join ', ', $answer->{status}, (map { $answer->{headers}{$_} // '-' } qw(content-type content-encoding)), $body;
}

for my $status (302, 401, 403, 429, 503) {
    for my $framing (qw(length chunked trailers eof)) {
        my $answer = $site->get('/', script(status => $status, framing => $framing, @json));
        is told($answer), "$status, application/json, -, $json", "$status, $framing";
        ok $answer->{complete}, "$status, $framing: complete";
        is $answer->{headers}{'x-request'}, undef, "$status, $framing: no other headers";
    }
}
is $site->{app}->stats->{requests}, 0, 'the site was never asked';

my $answer = $site->get('/', script(status => 401, header => 'WWW-Authenticate:Bearer', header => 'Set-Cookie:a=1',
    @json));
is told($answer), "401, application/json, -, $json", '401 with headers';
is join(' ', map { values_of($_, $answer) } qw(WWW-Authenticate Set-Cookie)), 'Bearer a=1', '401: the headers';

# Size: up to the limit, and not a byte more.
for my $framing (qw(length chunked eof)) {
    for my $case ([0, ''], [1, 'x'], [1023, 'x' x 1023], [1024, 'x' x 1024], [1025, 'page'], [100_000, 'page'],
        [3_000_000, 'page']) {
        my ($length, $body) = @$case;
        $site->log_since;
        $answer = $site->get('/', "status=403&len=$length&framing=$framing&header=Content-Type:text/plain");
        my $type = $body eq 'page' ? 'text/html' : 'text/plain';
        is told($answer), "403, $type, -, $body", "$length bytes, $framing";
        my $log = $site->log_since;
        if ($body eq 'page') { like $log, qr/\[info\].*auth subrequest/, "$length bytes, $framing: logged" }
        else { unlike $log, qr/\[info\].*auth subrequest/, "$length bytes, $framing: nothing to log" }
    }
}
is told($site->get('/large', "status=403&len=$_&header=Content-Type:a/b")), "403, a/b, -, " . 'x' x $_,
    "$_ bytes of a megabyte"
    for 4095, 4096, 4097, 50_000, 1_000_000;
is told($site->get('/large', 'status=403&len=30000&framing=chunked&drip=5&header=Content-Type:a/b')),
    '403, a/b, -, ' . 'x' x 30_000, 'a body that comes in pieces';
is told($site->get('/large', "status=403&len=1048577&header=Content-Type:a/b")), '403, text/html, -, page',
    'a megabyte and one';

# Type and encoding come from the auth server; a body without a type gets none.
is told($site->get('/', 'status=403&len=3&header=Content-Type:a/b&header=Content-Encoding:gzip')),
    '403, a/b, gzip, xxx', 'encoded';
is told($site->get('/', script(status => 403, header => 'Content-Type:text/html; charset=utf-8', body => '<p>'))),
    '403, text/html; charset=utf-8, -, <p>', 'with a charset';
like told($site->get('/', 'status=403&len=3')), qr/^403, \S+, -, xxx$/, 'without a type';

# Where it does not apply.
is told($site->get('/off', script(status => 403, @json))), '403, text/html, -, page', 'switched off';
is $site->get('/', script(status => 404, @json))->{body} =~ /who/, '', 'a status that does not pass';
for my $status (200, 201) {
    $answer = $site->get('/', script(status => $status, @json));
    is $answer->{status}, 200, "$status: allowed";
    like $answer->{body}, qr/^connection \d+ request \d+$/, "$status: the answer is the site's alone";
}
is $site->get('/?len=5000', 'status=200&len=3000000')->{body}, 'x' x 5000, 'a permission with a large body';
is told($site->get('/page', script(status => 403, @json))) =~ s/text\/plain|application\/octet-stream/type/r,
    '403, type, -, the error page', 'error_page wins';
is told($site->get('/page', script(status => 401, @json))), "401, application/json, -, $json",
    'error_page of another status';
is $site->status('/again', script(status => 403, @json)), 403, 'an error page that is denied as well';
is told($site->get('/satisfy', script(status => $_, @json))), "$_, application/json, -, $json",
    "satisfy any: $_" for 302, 401, 403;

# A denial after an internal redirect has its own status, not the redirect's.
for my $path (qw(/from-error /from-status /from-site)) {
    is told($site->get($path, script(status => $_, @json))), "$_, application/json, -, $json", "$path: $_" for 401, 403;
}

# Auth locations of other kinds.
is told($site->get('/unbuffered', script(status => 403, @json))), "403, application/json, -, $json",
    'without proxy_buffering';
my %gzip = (headers => { 'Accept-Encoding' => 'gzip' });
like told($site->get('/gzip', script(status => 403, @json), %gzip)), qr{^403, application/json, gzip, \x1f\x8b},
    'compressed by nginx';
is told($site->get('/gzip', script(status => 403, @json, header => 'Content-Encoding:br'), %gzip)),
    "403, application/json, br, $json", 'compressed by the server: once is enough';
is told($site->get('/file', '')), '403, application/json, -, {"by":"return"}', 'by `return`';
for my $framing (qw(length chunked)) {
    $site->asked;
    is told($site->get('/cached', script(status => 401, framing => $framing, @json))), "401, application/json, -, $json",
        "cached, $framing: $_" for 'first', 'second', 'third';
    is $site->asked, 'auth 1, app 0', "cached, $framing: asked once";
}
is told($site->get('/cached', 'status=401&len=1025')), '401, text/html, -, page', "cached, larger: $_" for 'first',
    'second';

# Clients of all kinds.
$answer = $site->get('/', script(status => 403, @json), method => 'HEAD');
is told($answer), '403, application/json, -, ', 'HEAD';
my $request = $site->begin('/', script(status => 403, @json), method => 'POST', body => 'x' x 100_000, keep_alive => 1);
like $request->receive, qr/\r\n\r\n\Q$json\E\z/, 'POST, keep-alive';
for my $number (1 .. 3) {
    my $next = $site->begin('/', script(status => 403, @json), keep_alive => 1, over => $request->{socket});
    like $next->receive, qr{^HTTP/1.1 403 .*\r\n\r\n\Q$json\E\z}s, "keep-alive: the same connection, $number";
}
is told($site->get('/', script(status => 403, @json), headers => { Range => 'bytes=0-3', 'If-None-Match' => '*' })),
    "403, application/json, -, $json", 'a denial has no ranges and is never unmodified';
SKIP: {
    skip 'no HTTP/2', 3 unless $http2;
    is told(curl($http2_port, '/', '-H', 'X-Auth: ' . script(status => 401, @json))), "401, application/json, -, $json",
        'HTTP/2';
    is told(curl($http2_port, '/', '-I', '-H', 'X-Auth: ' . script(status => 401, @json))),
        '401, application/json, -, ', 'HTTP/2 HEAD';
    is told(curl($http2_port, '/', '-H', 'X-Auth: status=401&len=1025')), '401, text/html, -, page', 'HTTP/2, larger';
}

$site->expect_no_connection('at the end');
$site->stop;
done_testing;
