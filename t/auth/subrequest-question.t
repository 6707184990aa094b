# A decision holds for the question that was asked. A location that sends the body to the authorisation server asks again after
# a redirect to it, and the same question is never asked twice.
#
# faults: F20.7 "$name, index" "nothing is asked twice" "a smaller limit" "discarded, $length bytes, $path"
# faults: F20.7 "sent on already, $body: never allowed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $www = work_dir() . '/www';
mkdir $_ for $www, "$www/t";
open my $out, '>', "$www/index.php" or die $!;
print $out 'not to be seen';
close $out;

my $http2_port = free_port();
my $http2 = http2_listen($http2_port);
my $log = work_dir() . '/requests.log';
my $site = Keepalive::Auth->new(http => <<'END', locations => <<"END2")->start;
client_body_buffer_size 1m;
log_format short '$request_uri $status $server_protocol';
END
    access_log $log short;
    @{[ $http2 // '' ]}
    root $www;
    auth_subrequest /judge;
    location = /judge {
        internal;
        if (\$request_body ~ evil) { return 403; }
        proxy_set_header X-Method \$request_method;
        proxy_pass http://auth/?\$http_x_auth;
    }
    index index.php;
    location ~ \\.php\$ { auth_subrequest_body 64k; proxy_pass http://app; }
    location /t/ { try_files /none /index.php; }
    location /named/ { try_files /none \@app; }
    location \@app { auth_subrequest_body 64k; proxy_pass http://app; }
    location /accel { auth_subrequest off; proxy_pass http://app; }
    location /accel/unbuffered { auth_subrequest off; proxy_request_buffering off; proxy_pass http://app; }
    location /error { error_page 404 = \@app; proxy_intercept_errors on; proxy_pass http://app; }

    # From one location with a body to another one.
    location /same/ { auth_subrequest_body 64k; try_files /none \@app; }
    location /more/ { auth_subrequest_body 32k; try_files /none \@app; }
    location /less/ { auth_subrequest_body 64k; try_files /none \@ten; }
    location \@ten { auth_subrequest_body 10; proxy_pass http://app; }
    location /file/ { try_files /none \@file; }
    location \@file { auth_subrequest_body 64k; client_body_buffer_size 1k; proxy_pass http://app; }
    location /bare/ { auth_subrequest_body 64k; try_files /none \@bare; }
    location \@bare { proxy_pass http://app; }
    location /back/ { error_page 404 = \@back; proxy_intercept_errors on; proxy_pass http://app; }
    location \@back { auth_subrequest_body 64k; try_files /none \@bare; }
    location /method/ {
        auth_subrequest_body 64k;
        error_page 404 /method-page.php;
        proxy_intercept_errors on;
        proxy_pass http://app;
    }
    location /bare-method/ { error_page 404 /bare-page; proxy_intercept_errors on; proxy_pass http://app; }
    location = /bare-page { proxy_pass http://app; }

    # What has gone cannot be asked about.
    location /limited/ { client_max_body_size 10; error_page 413 = \@app; proxy_pass http://app; }
    location /limited-page/ { client_max_body_size 10; error_page 413 /page.php; proxy_pass http://app; }
END2

# How a request ends, and how many questions it takes.
sub expect {
    my ($title, $path, $status, $questions, $app, %options) = @_;
    $site->asked;
    my $answer = $site->get($path, 'status=204', method => 'POST', %options);
    is $answer->{status}, $status, "$title: $status";
    is $site->asked, "auth $questions, app $app", "$title: asked for $questions, served $app";
    return $answer;
}
sub last_question { join ' ', $site->{auth}->last_request->{line} =~ /^(\w+)/, $site->{auth}->last_request->{body} }

# Bodies, small and large, announced and not.
my %bodies = (
    small   => sub { (body => "a $_[0] body") },
    large   => sub { (body => 'x' x 40_000 . " $_[0]") },
    chunked => sub { (chunks => ["a $_[0]", ' body']) },
);
for my $name (sort keys %bodies) {
    my $body = $bodies{$name};
    # The question without the body is allowed; with the body it is denied where it is asked (and never reaches the server).
    expect("$name, directly", '/index.php', 403, 0, 0, $body->('evil'));
    expect("$name, index", '/', 403, 1, 0, $body->('evil'));
    expect("$name, try_files", '/t/x', 403, 1, 0, $body->('evil'));
    expect("$name, a named location", '/named/x', 403, 1, 0, $body->('evil'));
    expect("$name, error_page", '/error?status=404', 403, 1, 1, $body->('evil'));
    expect("$name, X-Accel-Redirect", '/accel?header=X-Accel-Redirect:/index.php', 403, 0, 1, $body->('evil'));

    expect("$name, good, directly", '/index.php', 200, 1, 1, $body->('good'));
    expect("$name, good, index", '/', 200, 2, 1, $body->('good'));
    like last_question(), qr/^POST .*good/, "$name, good: the second question has the body";
    like $site->{app}->last_request->{body}, qr/good/, "$name, good: and so has the site";
    expect("$name, good, try_files", '/t/x', 200, 2, 1, $body->('good'));
    expect("$name, good, a named location", '/named/x', 200, 2, 1, $body->('good'));
    expect("$name, good, X-Accel-Redirect", '/accel?header=X-Accel-Redirect:/index.php', 200, 1, 2, $body->('good'));
}
expect('no body', $_, 200, 1, 1) for '/', '/t/x', '/named/x', '/same/x', '/back/x';
expect('GET', $_, 200, 1, 1, method => 'GET') for '/', '/t/x', '/named/x', '/same/x';

# The same question is not asked again; one with less of a limit is refused, one without a body is another one.
my @body = (body => 'twelve bytes');
expect('the same limit', '/same/x', 200, 1, 1, @body);
expect('a larger limit', '/more/x', 200, 1, 1, @body);
expect('a smaller limit', '/less/x', 413, 1, 0, @body);
expect('a smaller limit that is enough', '/less/x', 200, 1, 1, body => 'ten bytes!');
expect('a body, and then none', '/bare/x', 200, 2, 1, @body);
is last_question(), 'GET ', 'a body, and then none: as without one';
expect('none, a body, none', '/back/x?status=404', 404, 2, 2, @body);
is last_question(), 'POST twelve bytes', 'none, a body, none: nothing is asked twice';
expect('in a file', '/file/x', 200, 2, 1, body => 'z' x 30_000);
is last_question(), 'POST ' . 'z' x 30_000, 'in a file: asked for';
expect('too large', $_, 413, 1, 0, body => 'x' x 70_000) for '/', '/t/x';

# Another method is another question, if it is sent: for a URI `error_page` makes a GET of the request.
expect('another method', '/method/x?status=404', 404, 2, 2, @body);
is last_question(), 'GET twelve bytes', 'another method: asked for';
expect('another method, no body', '/bare-method/x?status=404', 404, 1, 2, @body);
expect('another method, GET', '/method/x?status=404', 404, 1, 2, method => 'GET');

# A body that is not there any more: refused, with the error that has led here if there is one.
for my $length (11, 20_000) {
    for my $case (['/limited/x', 500], ['/limited-page/x', 413]) {
        my ($path, $status) = @$case;
        expect("discarded, $length bytes, $path", $path, $status, 0, 0, body => 'y' x $length);
    }
}
like $site->log_since, qr/\[error\].*client request body is not there to be authorised/, 'discarded: logged';
expect('discarded, chunked', '/limited/x', 500, 1, 0, chunks => ['y' x 2000, 'evil']);
for my $body ('evil', 'good') {
    my $large = "$body " x 20_000;
    my $answer = $site->get('/accel/unbuffered?header=X-Accel-Redirect:/index.php', 'status=204', method => 'POST', body => $large);
    unlike $answer->{status}, qr/^2/, "sent on already, $body: never allowed";
}

SKIP: {
    skip 'no HTTP/2', 5 unless $http2;
    for my $case (['evil', 403], ['good', 200]) {
        my ($body, $status) = @$case;
        is curl($http2_port, $_, '-H', 'X-Auth: status=204', '-d', "a $body body")->{status}, $status, "HTTP/2: $body, $_"
            for '/', '/t/x';
    }
    # nginx resets the stream after such an answer, and some versions of curl then lose it.
    curl($http2_port, '/limited/x', '-H', 'X-Auth: status=204', '-d', 'x' x 100);
    my $logged = sub { open my $in, '<', $log or return ''; join '', <$in> };
    ok wait_for { $logged->() =~ m{^/limited/x 500 HTTP/2}m }, 'HTTP/2: discarded' or diag $logged->();
}

$site->stop;
done_testing;
