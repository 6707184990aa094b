# A denial reaches the client as the authorisation server sent it (auth_subrequest_pass_status, auth_subrequest_pass_header). A
# status that is not passed becomes a 500.
#
# faults: F20.2 "WWW-Authenticate:Negotiate" "a denial, also where errors are allowed" "Retry-After:30" "an error, allowed"
# faults: F20.5 "HTTP/2, with a body"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Client ();
use Keepalive::Setup;

needs_module();

my $http2_port = free_port();
my $http2 = http2_listen($http2_port);
my $site = Keepalive::Auth->new(locations => <<"END")->start;
    @{[ $http2 // '' ]}
    location /plain { auth_subrequest /auth; proxy_pass http://app; }
    location /plain503 { auth_subrequest /auth; auth_subrequest_error 503; proxy_pass http://app; }
    location /plainallow { auth_subrequest /auth; auth_subrequest_error allow; proxy_pass http://app; }
    location /pass {
        auth_subrequest /auth;
        auth_subrequest_pass_status 302 303 307 308 401 403 407 429 503 599;
        auth_subrequest_pass_header X-Reason Cache-Control;
        proxy_pass http://app;
        location /pass/unbuffered { proxy_request_buffering off; proxy_pass http://app; }
        location /pass/other { auth_subrequest_pass_status 302; auth_subrequest_pass_header X-Other; proxy_pass http://app; }
        location /pass/page { error_page 401 302 429 /page; proxy_pass http://app; }
        location /pass/changed { error_page 401 =302 https://login.example.com/; proxy_pass http://app; }
        location /pass/satisfied { satisfy any; allow 127.0.0.1; deny all; proxy_pass http://app; }
        location /pass/unsatisfied { satisfy any; deny all; proxy_pass http://app; }
        location /pass/static { }
        location /pass/return { return 200 'not before the access phase'; }
    }
    location = /page { auth_subrequest off; return 200 "the error page"; }
    location /local { auth_subrequest /local-auth; auth_subrequest_pass_status 302 401 429; proxy_pass http://app; }
    location = /local-auth { internal; return 302 /login; }
END

sub headers_of { my ($answer, @names) = @_; join '; ', map { my $n = $_; map { "$n: $_" } values_of($n,
    $answer) } @names }

# Statuses with their headers.
my @relevant = qw(WWW-Authenticate Location Retry-After Set-Cookie);
for my $case (
    [302, 'Location:https://login.example.com/?next=%2Fa'], [302, 'Location:/login?next=a'], [302, 'Location:login'],
    [303, 'Location:/login'], [307, 'Location:/login'], [308, 'Location:/login'],
    [401, 'WWW-Authenticate:Basic realm="a, b"'], [401, 'WWW-Authenticate:Negotiate', 'WWW-Authenticate:Basic realm="x"'],
    [401], [403], [403, 'WWW-Authenticate:Bearer error="insufficient_scope"'],
    [407], [429, 'Retry-After:30'], [429, 'Retry-After:Fri, 20 Nov 2026 19:00:00 GMT'], [503, 'Retry-After:5'], [599],
    [302, 'Location:/login', 'Set-Cookie:a=1; Path=/', 'Set-Cookie:b=2; HttpOnly'],
    [401, 'WWW-Authenticate:Basic', 'Location:/login', 'Retry-After:1', 'Set-Cookie:a=1', 'Set-Cookie:b=2'],
    [503, 'Set-Cookie:a=1'],
) {
    my ($status, @headers) = @$case;
    my $answer = $site->get('/pass', script(status => $status, header => 'X-Secret:42', map { (header => $_) } @headers));
    is $answer->{status}, $status, "@$case: the status";
    is headers_of($answer, @relevant), join('; ', map { s/:/: /r } @headers), "@$case: the headers";
    is $answer->{headers}{'x-secret'}, undef, "$status: no other header";
    unlike $answer->{body}, qr/connection \d/, "$status: the body is nginx's page";
    is $answer->{headers}{'x-connection'}, undef, "$status: the site has not answered";
}
is $site->{app}->stats->{requests}, 0, 'the site was never asked';

# More headers by name, with all values; only the headers that the location names.
my $more = script(status => 403, header => 'X-Reason:first', header => 'x-reason:second',
    header => 'Cache-Control:no-store',
    header => 'X-Other:o', header => 'Set-Cookie:c=3');
my $answer = $site->get('/pass', $more);
is headers_of($answer, qw(X-Reason Cache-Control X-Other Set-Cookie)),
    'X-Reason: first; X-Reason: second; Cache-Control: no-store; Set-Cookie: c=3', 'auth_subrequest_pass_header';
$answer = $site->get('/plain', $more);
is headers_of($answer, qw(X-Reason Cache-Control X-Other Set-Cookie)), 'Set-Cookie: c=3', 'without it';
$answer = $site->get('/pass/other', script(status => 302, header => 'X-Reason:r', header => 'X-Other:o',
    header => 'Location:/l'));
is headers_of($answer, qw(X-Reason X-Other Location)), 'X-Other: o; Location: /l',
    'a list of the location replaces the one above';
is $site->status('/pass/other', 'status=401'), 500, 'the same with statuses';
$answer = $site->get('/pass', script(status => 204, header => 'X-Reason:fine', header => 'Set-Cookie:c=3',
    header => 'Location:/l'));
is headers_of($answer, qw(X-Reason Set-Cookie Location)), '', 'a permission passes none of them to the client';

# What does not pass.
$site->log_since;
for my $status (300, 302, 304, 307, 400, 404, 407, 410, 418, 429, 499) {
    my $script = script(status => $status, header => 'Location:/x', header => 'Retry-After:1',
        header => 'WWW-Authenticate:Basic',
        header => 'Set-Cookie:a=1');
    for my $way (['/plain', 500], ['/plain503', 503], ['/plainallow', 500]) {
        my $answer = $site->get($way->[0], $script);
        is $answer->{status}, $way->[1], "$status by default: $way->[0] is $way->[1]";
        is headers_of($answer, @relevant), '', "$status: without headers";
        my $log = $site->log_since;
        like $log, qr/\[error\].*auth subrequest unexpected status: $status\b/, "$status: logged";
        unlike $log, qr/is allowed/, "$status: never allowed";
    }
}
is $site->status('/pass', 'status=404'), 500, '404 is not listed';
for my $status (500, 502, 503, 504, 507, 599) {
    is $site->status('/plain', "status=$status"), 500, "$status: an error";
    is $site->status('/plain503', "status=$status"), 503, "$status: an error, 503";
    is $site->status('/plainallow', "status=$status"), 200, "$status: an error, allowed";
    like $site->log_since, qr/\[error\].*auth subrequest.*request is allowed/, "$status: which is logged";
}
is $site->status('/plainallow', "status=$_"), $_, "$_: a denial, also where errors are allowed" for 401, 403;

# error_page comes first, with the headers of the denial.
my $login = script(status => 302, header => 'Location:/login', header => 'Set-Cookie:a=1');
for my $case ([401, 'WWW-Authenticate:Basic'], [429, 'Retry-After:5'], [302, 'Location:/login']) {
    my ($status, $header) = @$case;
    $answer = $site->get('/pass/page', script(status => $status, header => $header));
    is "$answer->{status} $answer->{body}", "$status the error page", "error_page $status";
    is headers_of($answer, @relevant), $header =~ s/:/: /r, "error_page $status: with its header";
}
$answer = $site->get('/pass/page', 'status=403');
unlike $answer->{body}, qr/the error page/, 'another status has its own page';
$answer = $site->get('/pass/changed', script(status => 401, header => 'Set-Cookie:a=1'));
is "$answer->{status} " . headers_of($answer, 'Location', 'Set-Cookie'),
    '302 Location: https://login.example.com/; Set-Cookie: a=1', 'error_page changes the status';

# satisfy any: a request that another condition allows is not asked for; any other request gets the denial.
$site->asked;
is $site->status('/pass/satisfied', $login), 200, 'satisfy any, allowed';
is $site->asked, 'auth 0, app 1', 'nobody was asked';
for my $case ([302, 'Location:/login'], [401, 'WWW-Authenticate:Basic'], [403], [429, 'Retry-After:5']) {
    my ($status, @headers) = @$case;
    $answer = $site->get('/pass/unsatisfied', script(status => $status, map { (header => $_) } @headers));
    is "$answer->{status} " . headers_of($answer, @relevant), "$status " . join('', map { s/:/: /r } @headers),
        "satisfy any, denied: $status";
}

# Where no proxy follows.
is $site->status('/pass/static', $login), 302, 'a static location';
is $site->get('/pass/return', $login)->{body}, 'not before the access phase',
    '`return` is earlier than any authorisation';
$answer = $site->get('/local', '');
is "$answer->{status} $answer->{headers}{location}", '302 /login', 'an auth location that is no proxy';

# The client's connection goes on, whatever became of the body that it sent.
my %bodies = (none => {}, small => { body => 'x' x 100 }, large => { body => 'x' x 300_000 },
    chunked => { chunks => ['x' x 5000] });
for my $path ('/pass', '/pass/unbuffered') {
    for my $name (sort keys %bodies) {
        my $request = $site->begin($path, $login, method => 'POST', keep_alive => 1, %{ $bodies{$name} });
        like $request->receive, qr{^HTTP/1.1 302 .*^Location: /login\r$}ms, "$path, body $name: denied";
        my $next = $site->begin($path, 'status=204', keep_alive => 1, over => $request->{socket});
        like $next->receive, qr{^HTTP/1.1 200 }, "$path, body $name: the next request of this connection is served";
    }
}

# HEAD, HTTP/2.
$answer = $site->get('/pass', $login, method => 'HEAD');
is "$answer->{status} $answer->{body}" . headers_of($answer, @relevant), '302 Location: /login; Set-Cookie: a=1', 'HEAD';
SKIP: {
    skip 'no HTTP/2', 2 unless $http2;
    $answer = curl($http2_port, '/pass', '-H', "X-Auth: $login&header=Set-Cookie:b=2");
    is "$answer->{status} " . headers_of($answer, @relevant), '302 Location: /login; Set-Cookie: a=1; Set-Cookie: b=2',
        'HTTP/2';
    $answer = curl($http2_port, '/pass', '-H', 'X-Auth: status=429&header=Retry-After:3', '-d', 'x' x 1000);
    is "$answer->{status} " . headers_of($answer, @relevant), '429 Retry-After: 3', 'HTTP/2, with a body';
}

$site->stop;
done_testing;
