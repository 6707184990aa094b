# auth_subrequest asks once per request: the decision holds across internal redirects, and subrequests do not ask at all.
#
# faults: F20.9 "X-Accel-Redirect to a named location"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $www = work_dir() . '/www';
mkdir $_ for $www, "$www/dir", "$www/listed", "$www/files";
for my $file (['dir/index.html', 'the index'], ['listed/entry', 'x'], ['files/page', 'a file'], ['not-found',
    'not found'],
    ['page.html', '<!--# include virtual="/part" --> and <!--# include virtual="/part" wait="yes" -->'],
    ['fallback', 'the fallback']) {
    open my $out, '>', "$www/$file->[0]" or die $!;
    print $out $file->[1];
}
my $mirror = has_feature('without-http_mirror_module') ? '' : 'mirror /copy;';
my $addition = has_feature('with-http_addition_module') ? 'add_before_body /part;' : '';

my $site = Keepalive::Auth->new(locations => <<"END")->start;
    root $www;
    auth_subrequest /auth;
    auth_subrequest_set \$user \$upstream_http_x_user;
    auth_subrequest_error allow;
    auth_subrequest_timeout 2s;
    add_header X-User \$user always;
    add_header X-Status \$auth_subrequest_status always;
    location /app { proxy_pass http://app; }
    location /broken { error_page 404 /not-found; proxy_intercept_errors on; proxy_pass http://app; }
    location /named { error_page 404 = \@app; proxy_intercept_errors on; proxy_pass http://app; }
    location /try-uri { try_files /none /fallback; }
    location /try-named { try_files /none \@app; }
    location /dir/ { }
    location /listed/ { autoindex on; }
    location /accelerated { proxy_pass http://app; }
    location /files/ { internal; }
    location /three { error_page 404 /two; proxy_intercept_errors on; recursive_error_pages on; proxy_pass http://app; }
    location /two { try_files /none /dir/; }
    location \@app { rewrite ^ /plain? break; proxy_pass http://app; }
    location \@named { proxy_set_header X-Again yes; proxy_pass http://app; }
    location /again { try_files /none \@named; }

    location /elsewhere { error_page 404 /other; proxy_intercept_errors on; proxy_pass http://app; }
    location /other { auth_subrequest /auth?other; try_files /fallback =404; }
    location /unasked { auth_subrequest off; error_page 404 /not-found; proxy_intercept_errors on; proxy_pass http://app; }
    location /denied { error_page 403 /denied-page; proxy_pass http://app; }
    location /denied-page { try_files /fallback =404; }
    location /denied-open { error_page 403 /open; proxy_pass http://app; }
    location /open { auth_subrequest off; return 200 "for all, \$user"; }
    location /page.html { ssi on; }
    location /part { proxy_pass http://app/?len=4; }
    location /mirrored { $mirror proxy_pass http://app; }
    location /copy { internal; proxy_pass http://app; }
    location /added { $addition default_type text/html; proxy_pass http://app/?header=Content-Type:text/html; }
    location /itself { auth_subrequest /asks-itself; proxy_pass http://app; }
    location /asks-itself { auth_subrequest /asks-itself; proxy_pass http://auth/?\$http_x_auth; }
END

# Each path, the answer's status and a piece of its body.
sub expect_once {
    my ($title, $path, $status, $body, %options) = @_;
    my $questions = delete $options{questions} // 1;
    my $script = delete $options{script} // 'status=200&header=X-User:alice&header=X-More:1';
    $site->asked;
    my $answer = $site->get($path, $script, %options);
    is $answer->{status}, $status, "$title: $status";
    like $answer->{body}, qr/$body/, "$title: its body";
    my ($asked) = $site->asked =~ /auth (\d+)/;
    is $asked, $questions, "$title: asked for " . ($questions == 1 ? 'once' : $questions);
    return $answer;
}

my @redirects = (
    ['no redirect', '/app', 200, 'connection'],
    ['error_page', '/broken?status=404', 404, 'not found'],
    ['error_page to a named location', '/named?status=404', 200, 'connection'],
    ['try_files with a URI', '/try-uri', 200, 'the fallback'],
    ['try_files with a named location', '/try-named', 200, 'connection'],
    ['index', '/dir/', 200, 'the index'],
    ['autoindex', '/listed/', 200, 'entry'],
    ['X-Accel-Redirect', '/accelerated?header=X-Accel-Redirect:/files/page', 200, 'a file'],
    ['X-Accel-Redirect to a named location', '/accelerated?header=X-Accel-Redirect:@app', 200, 'connection'],
    ['three redirects', '/three?status=404', 404, 'the index'],
);
for my $case (@redirects) {
    my $answer = expect_once(@$case);
    is $answer->{headers}{'x-user'}, 'alice', "$case->[0]: the variable is still there";
    is $answer->{headers}{'x-status'}, 200, "$case->[0]: and the status";
}
expect_once('POST over try_files', '/try-named', 200, 'connection', method => 'POST', body => 'a body');
is $site->{app}->last_request->{body}, 'a body', 'the body comes along';
expect_once('HEAD', '/dir/', 200, '', method => 'HEAD');

# Another URI is another question.
expect_once('another URI', '/elsewhere?status=404', 404, 'the fallback', questions => 2);
expect_once('off, then on', '/unasked?status=404', 404, 'not found', questions => 1);

# A denial is remembered too, and so is a failure to ask.
expect_once('a remembered denial', '/denied', 403, 'nginx', script => 'status=403');
expect_once('a denial with a page for all', '/denied-open', 403, 'for all, bob',
    script => 'status=403&header=X-User:bob');
$site->log_since;
expect_once("a failure: $_->[0]", @$_[1 .. 3],
    script => 'status=500') for grep { $_->[1] =~ m{^/(?:dir|try|broken)} } @redirects;
my @allowed = $site->log_since =~ /request is allowed/g;
is @allowed, 4, 'and each is logged once';
expect_once('a failure by timeout', '/try-uri', 200, 'the fallback', script => 'fault=hang&at=start');

# Subrequests.
expect_once('SSI', '/page.html', 200, 'xxxx and xxxx');
expect_once('mirror', '/mirrored', 200, 'connection') if $mirror;
expect_once('add_before_body', '/added', 200, 'xxxxconnection') if $addition;
expect_once('the auth location asks itself', '/itself', 200, 'connection');
expect_once('and denies', '/itself', 403, '403', script => 'status=403');

# One connection, one request after the other: nothing is remembered from request to request.
$site->asked;
my $connection;
for my $status (200, 403, 200) {
    my $request = $site->begin('/app', "status=$status", keep_alive => 1, over => $connection);
    $connection = $request->{socket};
    like $request->receive, qr/^HTTP\/1.1 $status /, "the same connection: $status";
}
is $site->asked, 'auth 3, app 2', 'each is asked for';

$site->stop;
done_testing;
