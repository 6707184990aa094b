# auth_subrequest does what auth_request does: a site that uses either of them gets the same requests.
#
# faults: F20.1 "lets the request pass, variables are set"
# faults: F20.2 "all of several"
# faults: F20.9 "a variable that was set before"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Setup;

plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $www = work_dir() . '/www';
mkdir $_ for $www, "$www/static", "$www/static/deep";
for my $file (['static/page', '0123456789'], ['denied.html', 'the denied page'], ['static/deep/page', 'deep']) {
    open my $out, '>', "$www/$file->[0]" or die $!;
    print $out $file->[1];
}
my $socket = work_dir() . '/auth.sock';
my $by_socket = Keepalive::Backend->start(listen => ["unix:$socket"]);
my $http2_port = free_port();
my $http2 = http2_listen($http2_port);

sub site {
    my ($auth) = @_;
    return Keepalive::Auth->new(
        auth => 'proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header Connection "";'
            . ' proxy_set_header X-Original-URI $request_uri;',
        http => "upstream local { server unix:$socket; keepalive 4; }",
        locations => <<"END",
    @{[ $http2 // '' ]}
    $auth /auth;
    ${auth}_set \$user \$upstream_http_x_user;
    ${auth}_set \$code "\$upstream_status \$status";
    add_header X-User \$user always;
    add_header X-Code \$code always;
    root $www;
    location /app { proxy_pass http://app; }
    location /static/ { location /static/deep/ { } }
    location /off { $auth off; proxy_pass http://app; location /off/on { $auth /auth; proxy_pass http://app; } }
    location /set {
        set \$preset old;
        ${auth}_set \$args \$upstream_http_x_args;
        ${auth}_set \$preset "<\$upstream_http_x_user>";
        ${auth}_set \$nothing \$upstream_http_x_nothing;
        add_header X-Preset \$preset always;
        add_header X-Nothing "<\$nothing>" always;
        add_header X-User "<\$user>" always;
        proxy_pass http://app;
    }
    location /own {
        error_page 401 /login;
        error_page 403 =404 /denied.html;
        error_page 500 \@failed;
        proxy_pass http://app;
    }
    location /recursive { recursive_error_pages on; error_page 403 \@failed; proxy_pass http://app; }
    location /upgraded { proxy_set_header Connection upgrade; proxy_set_header Upgrade echo; proxy_pass http://app; }
    location = /login { $auth off; add_header X-User \$user always; return 200 "please, \$user"; }
    location = /denied.html { $auth off; add_header X-Kept \$code always; }
    location \@failed { $auth off; add_header X-Code \$code always; return 200 failed; }
    location = /return/204 { return 204; }
    location = /return/200 { return 200 body; }
    location = /return/401 { return 401; }
    location = /return/403 { return 403; }
    location = /return/302 { return 302 /elsewhere; }
    location /asks { $auth /denied.html; proxy_pass http://app; }
    location /missing { $auth /no-such-file; proxy_pass http://app; }
    location /returned/204 { $auth /return/204; proxy_pass http://app; }
    location /returned/200 { $auth /return/200; proxy_pass http://app; }
    location /returned/401 { $auth /return/401; proxy_pass http://app; }
    location /returned/403 { $auth /return/403; proxy_pass http://app; }
    location /returned/302 { $auth /return/302; proxy_pass http://app; }
    location /socket { $auth /auth-by-socket; proxy_pass http://app; }
    location = /auth-by-socket { internal; proxy_pass http://local/?status=403; proxy_set_header Connection ""; }
    location /down { $auth /auth-down; proxy_pass http://app; }
    location = /auth-down { internal; proxy_pass http://127.0.0.1:@{[ free_port() ]}; }
END
    )->start;
}

sub expect_all {
    my ($auth) = @_;
    my $site = site($auth);
    my $is = sub { my ($got, $expected, $title) = @_; is $got, $expected, "$auth: $title" };
    my $told = sub { my ($answer) = @_; join ', ', $answer->{status},
        map { $answer->{headers}{$_} // '-' } qw(x-user x-code) };

    for my $status (200, 201, 202, 204, 206, 299) {
        my $answer = $site->get('/app', script(status => $status, header => 'X-User:alice'));
        $is->($told->($answer), "200, alice, $status $status", "$status lets the request pass, variables are set");
    }
    $is->($site->asked, 'auth 6, app 6', 'each question was asked once');
    for my $status (401, 403) {
        my $answer = $site->get('/app', script(status => $status, header => 'X-User:bob', body => 'its own page'));
        $is->($told->($answer), "$status, bob, $status $status", "$status denies it, variables are set");
        unlike $answer->{body}, qr/its own page/, "$auth: the page is nginx's";
    }
    for my $status (300, 302, 304, 400, 404, 407, 418, 429, 500, 502, 503, 504) {
        my $answer = $site->get('/app', script(status => $status, header => 'Location:/x'));
        $is->($answer->{status}, 500, "$status is no decision");
        $is->($answer->{headers}{location}, undef, "$status: its headers do not pass");
    }
    $is->($site->asked, 'auth 14, app 0', 'nothing of that has come to the site');

    # The challenge.
    my $answer = $site->get('/app', script(status => 401, header => 'WWW-Authenticate:Basic realm="a b"'));
    is_deeply [values_of('WWW-Authenticate', $answer)], ['Basic realm="a b"'], "$auth: the challenge passes";
    if ($auth ne 'auth_request' || version_at_least('1.23.0')) {
        $answer = $site->get('/app', script(status => 401,
            map { (header => "WWW-Authenticate:$_") } qw(Negotiate Basic Bearer)));
        is_deeply [values_of('WWW-Authenticate', $answer)], [qw(Negotiate Basic Bearer)], "$auth: all of several";
    }
    $answer = $site->get('/app', script(status => 200, header => 'WWW-Authenticate:Basic'));
    is_deeply [values_of('WWW-Authenticate', $answer)], [], "$auth: none with a permission";

    # All methods, bodies and ranges.
    $site->asked;
    for my $method (qw(GET POST PUT DELETE OPTIONS PATCH)) {
        $answer = $site->get("/app/$method", 'status=204', method => $method, body => "body of $method");
        $is->($answer->{status}, 200, "$method is authorised");
        my ($question, $request) = map { $site->{$_}->last_request } qw(auth app);
        $is->($question->{line}, 'GET /?status=204 HTTP/1.1', "$method: the question is a GET");
        $is->($question->{body}, '', "$method: without a body");
        $is->("$request->{line} $request->{body}", "$method /app/$method HTTP/1.1 body of $method",
            "$method: the site has its body");
        $is->((values_of('X-Original-URI', $question))[0], "/app/$method", "$method: the question names the URI");
    }
    $answer = $site->get('/app', 'status=204', method => 'POST', chunks => ['some', 'chunks']);
    $is->("$answer->{status} " . $site->{app}->last_request->{body}, '200 somechunks', 'a chunked body');
    $answer = $site->get('/app', 'status=204', method => 'HEAD');
    $is->($site->{app}->last_request->{line}, 'HEAD /app HTTP/1.1', 'HEAD');
    $is->($answer->{body}, '', 'HEAD: without a body');
    $is->($site->asked, 'auth 8, app 8', 'all of them were asked for once');
    $answer = $site->get('/static/page', 'status=204', headers => { Range => 'bytes=2-4' });
    $is->("$answer->{status} $answer->{body}", '206 234', 'a range of a file');
    my $modified = $site->get('/static/page', 'status=204')->{headers}{'last-modified'};
    $is->($site->status('/static/page', 'status=204', headers => { 'If-Modified-Since' => $modified }), 304,
        'not modified');
    $is->($site->status('/static/page', 'status=403', headers => { 'If-Modified-Since' => $modified }), 403,
        'but denied');

    # Where it holds.
    $site->asked;
    for my $case (['/static/page', 403, 1], ['/static/deep/page', 403, 1], ['/static/missing', 403, 1],
        ['/off', 200, 0], ['/off/x', 200, 0], ['/off/on', 403, 1]) {
        my ($path, $status, $questions) = @$case;
        $is->($site->status($path, 'status=403'), $status, "$path: $status");
        $is->($site->asked =~ /auth (\d)/ && $1, $questions, "$path: questions");
    }
    $is->($site->status('/auth', 'status=204'), 404, 'nobody reaches an internal location');

    # Variables.
    $answer = $site->get('/set?old', script(status => 200, header => 'X-User:carol', header => 'X-Args:new=1'));
    $is->($answer->{headers}{'x-preset'}, '<carol>', 'a variable that was set before');
    $is->($answer->{headers}{'x-nothing'}, '<>', 'of a header that is not there');
    $is->($answer->{headers}{'x-user'}, '<>', 'of the level above: not inherited');
    $is->($site->{app}->last_request->{line}, 'GET /set?new=1 HTTP/1.1', "one of nginx's own");

    # Error pages.
    $answer = $site->get('/own', script(status => 401, header => 'X-User:dave', header => 'WWW-Authenticate:Basic'));
    $is->("$answer->{status} $answer->{body}", '401 please, dave', 'error_page 401');
    $is->(join(' ', values_of('WWW-Authenticate', $answer)), 'Basic', 'error_page 401: with the challenge');
    $answer = $site->get('/own', 'status=403');
    $is->("$answer->{status} $answer->{headers}{'x-kept'} $answer->{body}", '404 403 403 the denied page',
        'error_page 403 =404');
    $answer = $site->get('/own', 'status=404');
    $is->("$answer->{status} $answer->{headers}{'x-code'} $answer->{body}", '500 404 404 failed', 'error_page 500');
    $is->($site->status('/own', 'status=204'), 200, 'error_page: not with a permission');
    $is->($site->get('/recursive', 'status=403')->{body}, 'failed', 'recursive_error_pages');

    # A connection that is upgraded.
    my $upgrade = $site->begin('/upgraded?upgrade=1', 'status=204', keep_alive => 1,
        headers => ['Upgrade: echo', 'Connection: upgrade']);
    like $upgrade->receive, qr{^HTTP/1.1 101 }, "$auth: upgraded";
    $upgrade->more('hello');
    $is->($upgrade->receive, 'hello', 'upgraded: both sides are heard');
    $upgrade->abort;
    $is->($site->status('/upgraded?upgrade=1', 'status=403', headers => ['Upgrade: echo', 'Connection: upgrade']), 403,
        'or denied');

    # Auth locations that are no proxy.
    $is->($site->status("/returned/$_->[0]", ''), $_->[1], "return $_->[0]")
        for [204, 200], [200, 200], [401, 401], [403, 403], [302, 500];
    $is->($site->status('/app', "header=X-Accel-Redirect:/return/$_->[0]"), $_->[1], "X-Accel-Redirect to return $_->[0]")
        for [204, 200], [403, 403];
    $is->($site->status('/asks', ''), 200, 'a file');
    $is->($site->status('/missing', ''), 500, 'no such file');
    $is->($site->status('/down', ''), 500, 'a server that is not there');
    $is->($site->status('/socket', ''), 403, 'a server on a unix socket');

    SKIP: {
        skip 'no HTTP/2', 5 unless $http2;
        for my $case ([204, 200], [401, 401], [403, 403], [404, 500]) {
            my $answer = curl($http2_port, '/app', '-H', "X-Auth: status=$case->[0]&header=X-User:eve");
            $is->($told->($answer), "$case->[1], eve, $case->[0] $case->[0]", "HTTP/2: $case->[0]");
        }
        curl($http2_port, '/app', '-H', 'X-Auth: status=204', '-d', 'a body by HTTP/2');
        $is->($site->{app}->last_request->{body}, 'a body by HTTP/2', 'HTTP/2: a body');
    }
    my $name = $auth =~ tr/_/ /r;
    like $site->log_since, qr/$name unexpected status: 404/, "$auth: the log names what was no decision";
    $site->stop;
}

expect_all($_) for 'auth_request', is_ours() ? 'auth_subrequest' : ();
done_testing;
