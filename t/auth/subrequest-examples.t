# nginx-conf/auth-*.conf: nginx accepts these files, with only addresses and folders replaced, and they do what they promise.
#
# about: configuration

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $socket = work_dir() . '/auth.sock';
my $app  = Keepalive::Backend->start;
my $auth = Keepalive::Backend->start(listen => ['127.0.0.1:0', "unix:$socket"]);
my $port = free_port();
my $decisions = 0;

# The others are in t/auth/subrequest-cache-control.t and t/auth/subrequest-products.t.
is_deeply [sort map { m{auth-([\w-]+)\.conf} } glob 'nginx-conf/auth-*.conf'], [sort qw(tcp unix fail-open login-redirect rate-limit cache
    cache-control cache-stale authelia authentik oauth2-proxy vouch)], 'all files are tested';

# An nginx with one of these files. The authorisation server does what a request says in X-Auth.
sub example {
    my ($name) = @_;
    open my $in, '<', "nginx-conf/auth-$name.conf" or die "auth-$name.conf: $!";
    my $text = do { local $/; <$in> };
    $decisions++;
    my $cache = work_dir() . "/cache$decisions";
    my %place = ('127\.0\.0\.1:8080' => $app->address, '127\.0\.0\.1:8090' => $auth->address,
        'unix:/run/auth\.sock' => "unix:$socket",
        'http://auth/check' => 'http://auth/check?$http_x_auth', 'listen      80' => "listen 127.0.0.1:$port",
        '/var/lib/nginx/decisions' => $cache);
    my %found;
    for my $pattern (keys %place) {
        $found{$pattern} = $text =~ s/$pattern/$place{$pattern}/g;
    }
    ok $found{'http://auth/check'} && $found{'listen      80'}, "$name: the places to change are there";
    my $nginx = Keepalive::Nginx->new(text => $text);
    my ($accepted, $said) = $nginx->test;
    ok $accepted, "$name: accepted" or diag $said;
    unlike $said, qr/\[(?:warn|notice)\]/, "$name: without a word";
    $_->drop, $_->reset for $app, $auth;
    return $nginx->start;
}

sub ask { my ($path, $script, @headers) = @_; return get($port, $path, headers => ["X-Auth: $script", @headers]) }

# What all of them have in common.
sub expect_authorisation {
    my ($name, $listener) = @_;
    my $answer = ask('/', 'status=200&header=X-User:anne', 'X-User: root', 'X-User: again');
    is $answer->{status}, 200, "$name: allowed";
    is_deeply [values_of('X-User', $app->last_request)], ['anne'], "$name: the site has the user's name, and no other";
    my $question = $auth->last_request($listener);
    like $question->{line}, qr{^GET /check\?}, "$name: the question";
    is((values_of('X-Original-URI', $question))[0], '/', "$name: names the URI");
    is((values_of('Connection', $question))[0], undef, "$name: over a connection that is kept");
    $answer = ask('/', 'status=403&len=10');
    is $answer->{status}, 403, "$name: denied";
    ask('/', 'status=200&len=10') for 1 .. 5;
    is $auth->stats($listener)->{accepted}, 1, "$name: all over one connection";
}

{
    my $nginx = example('tcp');
    expect_authorisation('tcp', 0);
    my $answer = ask('/', script(status => 401, header => 'Content-Type:application/json',
        header => 'WWW-Authenticate:Bearer', body => '{}'));
    is "$answer->{status} $answer->{headers}{'www-authenticate'} $answer->{body}", '401 Bearer {}',
        'tcp: a denial with its page';
    $answer = ask('/public/', 'status=403', 'X-User: root');
    is $answer->{status}, 200, 'tcp: what is public';
    is_deeply [values_of('X-User', $app->last_request)], [], 'tcp: without a name';
    is ask('/', 'fault=close&at=start')->{status}, 500, 'tcp: a failure';
    is get($port, '/auth')->{status}, 404, 'tcp: the question is nobody else\'s';
    my @many = map { begin($port, "/?$_", headers => ['X-Auth: status=204&delay=20']) } 1 .. 100;
    is scalar(grep { $_->finish->{status} == 200 } @many), 100, 'tcp: a hundred at once';
    cmp_ok $auth->stats->{max_open}, '<=', 16, 'tcp: never more connections than agreed';
    open my $log, '<', $nginx->dir . '/logs/access.log' or die $!;
    my @lines = <$log>;
    like $lines[0], qr{ 200 [\d.]+ auth 200 0\.\d\d\d upstream \S+ 200 }, 'tcp: the log tells of both answers';
    $nginx->stop;
}
{
    my $nginx = example('unix');
    expect_authorisation('unix', 1);
    my $answer = get($port, '/', headers => ['X-Auth: status=204'], method => 'POST', body => 'y' x 1000);
    is $answer->{headers}{'x-body-length'}, 1000, 'unix: the site has the body';
    my $question = $auth->last_request(1);
    is substr($question->{line}, 0, 11) . length $question->{body}, 'POST /check1000', 'unix: and so has the question';
    is get($port, '/', headers => ['X-Auth: status=204'], method => 'POST', body => 'y' x 65537)->{status}, 413,
        'unix: but not a larger one';
    $nginx->stop;
}
{
    my $nginx = example('fail-open');
    expect_authorisation('fail-open', 0);
    $auth->drop;
    wait_for { !$auth->stats->{open} };
    $auth->refuse(400, 0);
    my $answer = ask('/', 'status=204', 'X-User: root');
    is $answer->{status}, 200, 'fail-open: the server is down, the site is up';
    is_deeply [values_of('X-User', $app->last_request)], [], 'fail-open: nobody has a name';
    is ask('/admin/', 'status=204')->{status}, 503, 'fail-open: but not here';
    wait_for { ask('/admin/', 'status=204')->{status} == 200 };
    my $begun = time;
    is ask('/', 'fault=hang&at=start')->{status}, 200, 'fail-open: no answer';
    cmp_ok time - $begun, '<', 1.5, 'fail-open: within half a second';
    is ask('/', 'status=404')->{status}, 500, 'fail-open: no decision';
    like $nginx->error_log, qr/auth subrequest timed out.*request is allowed/, 'fail-open: logged';
    $nginx->stop;
}
{
    my $nginx = example('login-redirect');
    expect_authorisation('login-redirect', 0);
    my $answer = ask('/a?b', script(status => 302, header => 'Location:https://login.example.com/?next=/a',
        header => 'Set-Cookie:s=1'));
    is join(' ', $answer->{status}, @{ $answer->{headers} }{qw(location set-cookie)}),
        '302 https://login.example.com/?next=/a s=1',
        'login-redirect: sent to the login page, with a cookie';
    is_deeply [values_of('Set-Cookie', $answer)], ['s=1'], 'login-redirect: once';
    is ask('/login', 'status=302')->{status}, 200, 'login-redirect: which is for everybody';
    $answer = ask('/', 'status=200&header=Set-Cookie:s=2');
    is join(' ', $answer->{status}, values_of('Set-Cookie', $answer)), '200 s=2',
        'login-redirect: a session that is prolonged';
    is_deeply [values_of('Set-Cookie', ask('/', 'status=200&header=Set-Cookie:s=2&header=Set-Cookie:t=3'))], ['s=2', 't=3'],
        'login-redirect: by two cookies';
    is_deeply [values_of('Set-Cookie', ask('/', 'status=200'))], [], 'login-redirect: or not';
    $nginx->stop;
}
{
    my $nginx = example('rate-limit');
    expect_authorisation('rate-limit', 0);
    my $answer = ask('/', script(status => 429, header => 'Retry-After:30', header => 'RateLimit:"default";r=0;t=30',
        body => '{"slow":"down"}'));
    is join(' ', $answer->{status}, @{ $answer->{headers} }{qw(retry-after ratelimit)}, $answer->{body}),
        '429 30 "default";r=0;t=30 {"slow":"down"}', 'rate-limit: too fast';
    $answer = ask('/', script(status => 200, header => 'RateLimit:"default";r=9;t=30'));
    is join(' ', $answer->{status}, values_of('RateLimit', $answer)), '200 "default";r=9;t=30',
        'rate-limit: those who may go on know, too';
    $nginx->stop;
}
{
    my $nginx = example('cache');
    for my $user (qw(anne bob)) {
        my @answers = map { $_->finish } map { begin($port, '/', headers => ["Authorization: $user",
            "X-Auth: header=X-User:$user&delay=30"]) } 1 .. 50;
        is scalar(grep { $_->{status} == 200 } @answers), 50, "cache: fifty requests of $user";
        is_deeply [values_of('X-User', $app->last_request)], [$user], "cache: in the name of $user";
    }
    is $auth->stats->{requests}, 2, 'cache: one question for each';
    my ($first, $second) = map { ask('/', "status=401&header=Set-Cookie:s=$_") } 1 .. 2;
    is join(' ', map { $_->{headers}{'set-cookie'} } $first, $second), 's=1 s=2',
        'cache: a cookie is for one client only';
    $nginx->stop;
}

done_testing;
