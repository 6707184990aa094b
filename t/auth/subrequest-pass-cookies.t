# auth_subrequest_pass_cookies: the client gets the cookies of a permission, all of them and once.
#
# faults: F20.9 "a redirect: each once"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $site = Keepalive::Auth->new(locations => <<'END', auth => 'proxy_cookie_path /its /ours;')->start;
    auth_subrequest /auth;
    auth_subrequest_pass_cookies on;
    location / { proxy_pass http://app; }
    location /off { auth_subrequest_pass_cookies off; proxy_pass http://app; }
    location /error { auth_subrequest_error allow; proxy_pass http://app; }
    location /redirect { error_page 404 = /found; auth_subrequest_pass_status 302 401 403; return 404; }
    location /try { root /; try_files /nothing /found; }
    location /found { proxy_pass http://app/; }
    location /page { error_page 401 = /found; proxy_pass http://app; }
    location = /also { auth_subrequest /auth?two; proxy_pass http://app/; }
    location /both { root /; try_files /nothing /also; }
    location /hidden { auth_subrequest /hidden-auth; proxy_pass http://app; }
    location = /hidden-auth { internal; proxy_pass http://auth/?$http_x_auth; proxy_hide_header Set-Cookie; }
END

sub cookies { return [values_of('Set-Cookie', $site->get(@_))] }

my $two = 'header=Set-Cookie:a=1&header=Set-Cookie:' . 'b=2%3B Path=/its%3B Expires=Thu, 01 Jan 2037 00:00:00 GMT' =~ s/ /%20/gr;
my @two = ('a=1', 'b=2; Path=/ours; Expires=Thu, 01 Jan 2037 00:00:00 GMT');
is_deeply cookies('/', "status=$_&$two"), \@two, "$_: all of them, each a header, as the location passes them" for 200, 202, 204;
is_deeply cookies('/', "status=200&$two&len=10&framing=chunked"), \@two, 'with a body';
is_deeply cookies('/', 'status=200'), [], 'without a cookie';
is_deeply [sort @{ cookies('/?header=Set-Cookie:site=1', "status=200&$two") }], [sort @two, 'site=1'], 'beside that of the site';
is_deeply cookies("/?status=$_", "status=200&$two"), \@two, "the site answers $_" for 302, 304, 404, 500;
is_deeply cookies('/off', "status=200&$two"), [], 'off';
is_deeply cookies('/hidden', "status=200&$two"), [], 'hidden by the location of the question';

is_deeply cookies('/', "status=401&$two"), \@two, 'a denial: once';
is_deeply cookies('/page', "status=401&$two"), \@two, 'a denial with a page: once';
is_deeply cookies('/off', "status=403&$two"), \@two, 'a denial, off: passed anyway';
is_deeply cookies('/', "status=500&$two"), [], 'a failure: none';
is_deeply cookies('/error', "status=500&$two"), [], 'a failure that allows: none';

is_deeply cookies($_, "status=200&$two"), \@two, "$_, a redirect: each once" for '/redirect', '/try';
is_deeply cookies('/both', "status=200&$two"), [@two, @two], 'two questions: those of both';

is_deeply cookies('/', "status=200&$two", method => 'HEAD'), \@two, 'HEAD';
is_deeply cookies('/', "status=200&$two", method => 'POST', body => 'x' x 100), \@two, 'POST';

SKIP: {
    my $port = free_port();
    my $listen = http2_listen($port) or skip 'nginx or curl cannot speak HTTP/2', 1;
    my $other = Keepalive::Auth->new(http => "server { $listen location / { auth_subrequest /q; auth_subrequest_pass_cookies on;\n"
        . 'proxy_pass http://app; } location = /q { internal; proxy_pass http://auth/?$http_x_auth; } }')->start;
    is_deeply [map { s/^set-cookie: //ir } values_of('set-cookie', curl($port, '/', '-H', "X-Auth: status=200&$two"))],
        ['a=1', $two[1] =~ s/ours/its/r], 'HTTP/2';
    $other->stop;
}
$site->expect_no_connection('at the end');
$site->stop;
done_testing;
