# What the client gets with a denial besides its status: no header twice, no header of a denial that is not the response, every
# status that can be listed, and nothing before `auth_delay` is over.
#
# faults: F20.8 "'/own/proxied'" "denied twice: told once" "a static page: one $_" "msie_refresh: @$location"
# faults: F20.8 "HTTP/2, $_: $status" "$path: with its body"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $www = work_dir() . '/www';
mkdir $www;
open my $out, '>', "$www/page.html" or die $!;
print $out 'a page';
close $out;

my $http2_port = free_port();
my $http2 = http2_listen($http2_port);
my $statuses = join ' ', grep { $_ != 499 } 300 .. 599;
my $own = 'header=Location:/own&header=Retry-After:7&header=Set-Cookie:own=1&header=WWW-Authenticate:Own&header=X-Reason:own';
my $site = Keepalive::Auth->new(auth => 'proxy_pass_header Server; proxy_pass_header Date;', locations => <<"END")->start;
    @{[ $http2 // '' ]}
    root $www;
    auth_subrequest /auth;
    auth_subrequest_pass_status $statuses;
    auth_subrequest_pass_header X-Reason Server Date Expires Last-Modified ETag Content-Type Content-Encoding;
    location /plain { proxy_pass http://app; }
    location /body { auth_subrequest_pass_body 1k; proxy_pass http://app; }
    location /old { msie_refresh on; proxy_pass http://app; }

    # Pages of an own response.
    location /own/proxied { error_page 401 = /proxied; proxy_pass http://app; }
    location /own/named { error_page 401 = \@proxied; proxy_pass http://app; }
    location /own/return { error_page 401 = /return; proxy_pass http://app; }
    location /own/relative { error_page 401 = /relative; proxy_pass http://app; }
    location /own/elsewhere { error_page 401 http://h/login; proxy_pass http://app; }
    location /own/static { error_page 401 = /page.html; proxy_pass http://app; }
    location /own/redirect { error_page 302 http://h/login; proxy_pass http://app; }
    # Pages of the denial.
    location /its/proxied { error_page 401 /proxied; proxy_pass http://app; }
    location /its/static { error_page 401 /page.html; proxy_pass http://app; }
    location /its/408 { error_page 408 444 /page.html; proxy_pass http://app; }
    location /its/body { error_page 401 /page.html; auth_subrequest_pass_body 1k; proxy_pass http://app; }
    # Asked about themselves, and denied themselves.
    location /twice { error_page 401 /denied; proxy_pass http://app; }
    location /denied { auth_subrequest /auth?again; proxy_pass http://app; }

    location /proxied { auth_subrequest off; proxy_pass http://app/?status=302&$own; }
    location \@proxied { auth_subrequest off; proxy_pass http://app; rewrite ^ /?status=302&$own? break; }
    location /return { auth_subrequest off; return 302 /login; }
    location /relative { auth_subrequest off; absolute_redirect off; return 302 /login; }
    location /page.html { auth_subrequest off; }

    location /delayed/ {
        auth_delay 600ms;
        auth_subrequest_pass_body 1k;
        location /delayed/all { proxy_pass http://app; }
        location /delayed/any { satisfy any; deny all; proxy_pass http://app; }
        location /delayed/page { error_page 401 = /page.html; proxy_pass http://app; }
    }
END

# The values of some headers, in a line.
sub headers_of {
    my ($answer, @names) = @_;
    return join '; ', map { my $name = $_; map { "$name: $_" } values_of($name, $answer) } @names;
}
my @relevant = qw(WWW-Authenticate Location Retry-After Set-Cookie X-Reason);
my @denial = (header => 'Location:/theirs', header => 'Retry-After:30', header => 'Set-Cookie:theirs=1',
    header => 'WWW-Authenticate:Theirs', header => 'X-Reason:theirs');

# The headers of a denial go with the denial only. Another response keeps its own, except for cookies.
my $theirs = 'WWW-Authenticate: Theirs; Location: /theirs; Retry-After: 30; Set-Cookie: theirs=1; X-Reason: theirs';
my $both = 'WWW-Authenticate: Own; WWW-Authenticate: Theirs; Location: /own; Retry-After: 7; Set-Cookie: own=1;'
    . ' Set-Cookie: theirs=1; X-Reason: own';
my $page = 'WWW-Authenticate: Own; Location: /own; Retry-After: 7; Set-Cookie: own=1; Set-Cookie: theirs=1; X-Reason: own';
my %login = map { $_ => "Location: $_; Set-Cookie: theirs=1" } 'http://h/login', '/login';
for my $case (
    ['/plain', 401, 401, $theirs], ['/plain', 403, 403, $theirs], ['/plain', 302, 302, $theirs],
    ['/plain', 503, 503, $theirs], ['/body', 401, 401, $theirs],
    ['/own/proxied', 401, 302, $page], ['/own/return', 401, 302, qr{^Location: http://[^;]*/login; Set-Cookie: theirs=1$}],
    ['/own/relative', 401, 302, $login{'/login'}], ['/own/elsewhere', 401, 302, $login{'http://h/login'}],
    ['/own/static', 401, 200, 'Set-Cookie: theirs=1'],
    ['/its/proxied', 401, 401, $both], ['/its/static', 401, 401, $theirs], ['/its/body', 401, 401, $theirs],
) {
    my ($path, $status, $expected, $headers) = @$case;
    for my $method (qw(GET HEAD POST)) {
        my $answer = $site->get($path, script(status => $status, @denial), method => $method,
            $method eq 'POST' ? (body => 'x' x 100) : ());
        is $answer->{status}, $expected, "$path, $status, $method: the status";
        my $got = headers_of($answer, @relevant);
        if (ref $headers) { like $got, $headers, "$path, $status, $method: the headers" }
        else { is $got, $headers, "$path, $status, $method: the headers" }
    }
}
my $answer = $site->get('/own/redirect', script(status => 302, @denial));
is headers_of($answer, 'Location'), 'Location: http://h/login', 'error_page of a redirect: the Location is its own';
$answer = $site->get('/twice', script(status => 401, @denial));
is "$answer->{status}: " . headers_of($answer, @relevant), "401: $theirs", 'denied twice: told once';
like $answer->{body}, qr/401 Authorization Required/, "denied twice: nginx's page";

# Headers of which there is one: nginx's own give way, and a second one of the server does not pass.
my @single = (header => 'Server:theirs', header => 'Date:Fri, 20 Nov 2026 19:00:00 GMT', header => 'ETag:"x"',
    header => 'Expires:0', header => 'Last-Modified:Fri, 20 Nov 2026 19:00:01 GMT');
my @names = qw(Server Date ETag Expires Last-Modified Content-Type Content-Encoding);
my @types = (header => 'Content-Type:a/b', header => 'Content-Encoding:br');
for my $case (['/plain', 'Content-Type: text/html'], ['/body', 'Content-Type: a/b; Content-Encoding: br']) {
    my ($path, $types) = @$case;
    $answer = $site->get($path, script(status => 403, @single, @types, body => 'theirs'));
    is headers_of($answer, @names), 'Server: theirs; Date: Fri, 20 Nov 2026 19:00:00 GMT; ETag: "x"; Expires: 0; '
        . "Last-Modified: Fri, 20 Nov 2026 19:00:01 GMT; $types", "$path: single headers";
}
$answer = $site->get('/its/static', script(status => 401, @single, @types));
is scalar(values_of($_, $answer)), 1, "a static page: one $_" for qw(Server Date ETag Last-Modified Content-Type);
is headers_of($answer, 'Content-Encoding'), '', 'a static page is not encoded';
for my $name (qw(Location Retry-After)) {
    $answer = $site->get('/plain', script(status => 429, header => "$name:1", header => "$name:2"));
    is headers_of($answer, $name), "$name: 1", "the server sends two $name";
}
$answer = $site->get('/plain', script(status => 403, map { (header => "$_:1", header => "$_:2") } qw(Set-Cookie X-Reason)));
is headers_of($answer, qw(Set-Cookie X-Reason)), 'Set-Cookie: 1; Set-Cookie: 2; X-Reason: 1; X-Reason: 2',
    'the server sends two of others';

# Redirects for old browsers, for which nginx needs a Location that it knows.
for my $location ([], [header => 'Location:/relative'], [header => 'Location:http://h/absolute']) {
    $answer = $site->get('/old', script(status => 302, @$location), headers => { 'User-Agent' => 'Mozilla/4.0 (compatible; MSIE 6.0)' });
    is "$answer->{status} @{[ values_of('Location', $answer) ]}",
        '302 ' . ($location->[1] // '') =~ s/Location://r, "msie_refresh: @$location";
}

# Statuses that nginx has for itself are sent like others, with and without a body, and the connection goes on.
for my $status (300, 304, 305, 407, 408, 418, 444, 494 .. 498, 500, 599) {
    for my $path ('/plain', '/body') {
        my $script = script(status => $status, $status == 304 ? () : (body => 'theirs'));
        my $request = $site->begin($path, $script, keep_alive => 1);
        my $text = $request->receive;
        like $text, qr{^HTTP/1.1 $status }, "$path: $status";
        like $text, qr/\r\n\r\ntheirs\z/, "$path: $status: its body" if $path eq '/body' && $status != 304;
        $answer = $site->get($path, $script, method => 'POST', body => 'x' x 50_000);
        is $answer->{status}, $status, "$path: $status, POST";
        # nginx closes the connection after some of its own responses.
        next if $text =~ /^Connection: close/mi;
        my $next = $site->begin('/plain', 'status=204', keep_alive => 1, over => $request->{socket});
        like $next->receive, qr{^HTTP/1.1 200 }, "$path: $status: the next request of this connection is served";
    }
}
for my $status (408, 444) {
    is $site->get('/its/408', "status=$status")->{body}, 'a page', "error_page $status";
    SKIP: {
        skip 'no HTTP/2', 2 unless $http2;
        is curl($http2_port, $_, '-H', 'X-Auth: status=' . $status)->{status}, $status, "HTTP/2, $_: $status"
            for '/plain', '/body';
    }
}

# The delay comes before the denial, whatever its body, and whichever condition has asked for a password.
sub expect_delayed {
    my ($title, $path, $script, $status, $delayed) = @_;
    my $begun = time;
    my $answer = $site->get($path, $script);
    my $took = time - $begun;
    is $answer->{status}, $status, "$title: $status";
    if ($delayed) { cmp_ok $took, '>', 0.55, "$title: delayed" }
    return $answer;
}
my $denial = script(status => 401, body => 'theirs', header => 'WWW-Authenticate:Bearer');
for my $path ('/delayed/all', '/delayed/any') {
    $answer = expect_delayed($path, $path, $denial, 401, 1);
    is "$answer->{body} @{[ values_of('WWW-Authenticate', $answer) ]}", 'theirs Bearer', "$path: with its body";
    expect_delayed("$path, empty", $path, 'status=401&len=0', 401, 1);
    expect_delayed("$path, 403", $path, 'status=403', 403, 0);
    $answer = expect_delayed("$path, 407", $path, script(status => 407, body => 'theirs'), 407, version_at_least('1.31.0'));
    is $answer->{body}, 'theirs', "$path, 407: with its body";
}
is expect_delayed('a page', '/delayed/page', $denial, 200, 1)->{body}, 'a page', 'a page: instead of the body';

ok !grep(/exited on signal/, $site->{nginx}->error_log), 'no worker has died';
$site->expect_no_connection('at the end');
$site->stop;
done_testing;
