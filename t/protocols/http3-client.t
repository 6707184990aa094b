# Clients that speak HTTP/3: their requests use the pool, wait in the queue and are authorised like those of other clients, with
# and without a body, also when the client leaves.
#
# faults: F9.4 "the client leaves $title: the connection is closed"
# faults: F20.5 "a denial, with all challenges" "auth_subrequest_body: and so has the question"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Auth qw(script values_of);
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client ();
use Keepalive::Setup;

plan skip_all => 'nginx has no HTTP/3' unless has_feature('with-http_v3_module') && has_feature('with-http_ssl_module');
my $curl = $ENV{TEST_NGINX_CURL_HTTP3} || 'curl';
plan skip_all => 'there is no curl with HTTP/3' unless `$curl --version 2>/dev/null` =~ /^Features:.*\bHTTP3\b/m;
plan skip_all => 'nginx has no auth_request' unless is_ours() || has_feature('with-http_auth_request_module');

# The UDP port of the first number is taken, see Keepalive::Setup.
my (undef, $port) = map { free_port() } 1, 2;
my ($certificate, $key) = self_signed('localhost');
my $small = Keepalive::Backend->start;
my $auth = is_ours() ? 'auth_subrequest' : 'auth_request';
my $ours = is_ours() ? <<'END' : '';
location /brief { auth_subrequest /auth; auth_subrequest_timeout 300ms; auth_subrequest_error 503; proxy_pass http://app; }
location /passed { auth_subrequest /auth; auth_subrequest_pass_status 302 401 429; auth_subrequest_pass_body 1k; proxy_pass http://app; }
location /body { auth_subrequest /auth; auth_subrequest_body 100k; proxy_pass http://app; }
location /small { proxy_pass http://small; }
location /copied { auth_subrequest_copy_header X-User; proxy_pass http://app; }
location /refused { auth_subrequest_copy_header X-User; deny all; error_page 403 = @elsewhere; }
location @elsewhere { proxy_pass http://app; }
END
my $queue = is_ours() ? 'queue 10 timeout=20s;' : '';
my $site = Keepalive::Auth->new(auth => is_ours() ? '' : 'proxy_pass_request_body off; proxy_set_header Content-Length "";',
    http => "client_max_body_size 20m; upstream small { server @{[ $small->address ]} max_conns=1; keepalive 1; $queue }", locations => <<"END")->start;
    listen 127.0.0.1:$port quic;
    ignore_invalid_headers off;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location /app { proxy_pass http://app; }
    location /unbuffered { proxy_buffering off; proxy_request_buffering off; proxy_pass http://app; }
    location /asks { $auth /auth; proxy_pass http://app; }
    $ours
END
my $nginx = $site->{nginx};
$site->get('/settled', '');

sub command {
    my ($path, @options) = @_;
    return ($curl, '-s', '-k', '--http3-only', '--max-time', 10, @options, "https://127.0.0.1:$port$path");
}

# The answer to a request, as Keepalive::Client has it. nginx stops a stream whose body it does not want; when that comes while
# curl is still sending, curl forgets the answer (with the stock module as with ours), and is told to try again.
sub ask {
    my ($path, @options) = @_;
    my $text = '';
    for (1 .. 10) {
        open my $output, '-|', command($path, '-i', @options) or die "$curl: $!";
        local $/;
        $text = <$output> // '';
        close $output;
        # 28: it took longer than it may.
        last if $text ne '' || $? >> 8 == 28;
    }
    $text =~ s{^HTTP/3 (\d+)}{HTTP/1.1 $1};
    return Keepalive::Client::parse($text);
}

sub says { return ('-H', 'X-Auth: ' . script(@_)) }

# A body from a file, since an argument has its limits.
sub body_of {
    my ($length) = @_;
    my $file = work_dir() . "/body$length";
    open my $out, '>', $file or die "$file: $!";
    print $out 'x' x $length;
    close $out or die "$file: $!";
    return ('--data-binary', '@' . $file);
}

# The pool.
$site->{app}->reset;
for my $path ('/app', '/unbuffered') {
    for my $length (0, 1, 3_000, 300_000, 3_000_000) {
        my $answer = ask("$path?len=$length", $length ? body_of($length) : ());
        is "$answer->{status} " . length $answer->{body}, "200 $length", "$path, $length bytes";
        is $answer->{headers}{'x-body-length'} // '', $length, "$path, $length bytes: the server has all of them";
    }
}
is ask('/app', '-I')->{status}, 200, 'HEAD';
is ask("/app?$_")->{status}, /status=(\d+)/ ? $1 : 200, "an answer: $_" for 'status=204', 'status=304', 'framing=chunked&len=10', 'framing=trailers&len=10';
is $site->{app}->stats->{accepted}, 1, 'all over one connection';
is ask('/app?fault=close&at=start&from=2')->{status}, 200, 'a GET on a stale connection is answered';
is ask('/app?fault=close&at=start&from=2', body_of(10))->{status}, 502, 'a POST that has arrived is not sent again';

# Authorisation.
for my $case ([204, 200], [200, 200], [401, 401], [403, 403], [404, 500], [500, 500]) {
    my ($status, $expected) = @$case;
    is ask('/asks', says(status => $status))->{status}, $expected, "authorisation, $status";
    is ask('/asks', says(status => $status), body_of(100_000))->{status}, $expected, "authorisation of a body, $status";
}
$site->asked;
my $answer = ask('/asks', says(status => 204), body_of(100_000));
is "$answer->{status} $answer->{headers}{'x-body-length'}", '200 100000', 'authorised: the site has the whole body';
is $site->{auth}->last_request->{line}, 'GET /?status=204 HTTP/1.1', 'authorised: the question is a GET';
is $site->{auth}->last_request->{body}, '', 'authorised: without the body';
is $site->asked, 'auth 1, app 1', 'authorised: asked once';
SKIP: {
    skip 'needs the module', 1 unless is_ours();
    $answer = ask('/passed', says(status => 401, header => 'WWW-Authenticate:Negotiate', header => 'WWW-Authenticate:Basic realm="x"',
        header => 'Content-Type:text/plain', body => 'who?'));
    is "$answer->{status} $answer->{body}", '401 who?', 'a denial, with its page';
    is join('; ', values_of('WWW-Authenticate', $answer)), 'Negotiate; Basic realm="x"', 'a denial, with all challenges';
    $answer = ask('/passed', says(status => 302, header => 'Location:https://login.test/'), body_of(100_000));
    is "$answer->{status} $answer->{headers}{location}", '302 https://login.test/', 'a redirect, of a request with a body';
    is ask('/passed', says(status => 429, header => 'Retry-After:3'))->{headers}{'retry-after'}, 3, 'a denial, 429';
    is ask('/brief', says(fault => 'hang', at => 'start'))->{status}, 503, 'no decision in time';
    is ask('/brief', says(fault => 'hang', at => 'start'), body_of(100_000))->{status}, 503, 'no decision in time, with a body';
    $answer = ask('/body', says(status => 204), body_of(50_000));
    is "$answer->{status} $answer->{headers}{'x-body-length'}", '200 50000', 'auth_subrequest_body: the site has it';
    is length $site->{auth}->last_request->{body}, 50_000, 'auth_subrequest_body: and so has the question';
    is ask('/body', says(status => 403), body_of(50_000))->{status}, 403, 'auth_subrequest_body: denied';
    is ask('/body', says(status => 204), body_of(200_000))->{status}, 413, 'auth_subrequest_body: too large';

    # Headers that no client may send.
    for my $path ('/copied', '/refused') {
        my @sent = map { ('-H', "$_: root") } 'X-User', 'X~User', 'X.User';
        is ask($path, @sent, '-H', 'X-Users: other')->{status}, 200, "$path: served";
        is join('; ', grep { /: (?:root|other)$/ } @{ $site->{app}->last_request->{headers} }), 'x-users: other',
            "$path: without the client's header, in any spelling";
    }

    # The queue.
    my $all = '';
    {
        open my $output, '-|', command('/small?delay=5&n=[1-10]', '-o', '/dev/null', '-w', '%{http_code} %{http_version}\n', '--parallel',
            '--parallel-immediate') or die "$curl: $!";
        local $/;
        $all = <$output>;
    }
    is $all, "200 3\n" x 10, 'ten at once';
    is $small->stats->{max_open}, 1, 'over one connection';
    my $requests = $small->requests;
    my $held = $site->begin('/small?fault=hang&at=start', '');
    ok wait_for { $small->requests == $requests + 1 }, 'one holds the server';
    is ask('/small', '--max-time', 0.5)->{status}, 0, 'a client that waits, and leaves';
    my $waits = $site->begin('/small', '');
    # A connection of QUIC is over for nginx when it has heard that its client leaves.
    sleep 0.5;
    $held->abort;
    is $waits->finish->{status}, 200, 'the next one is served';
    is $small->requests, $requests + 2, 'the server never hears of the one that left';
}

# Clients that leave.
$site->{app}->drop;
ok wait_for { !$site->{app}->stats->{open} }, 'the pool is empty';
for my $case (['before the answer', '/app?fault=hang&at=start'], ['in the answer', '/app?len=3000000&drip=200'],
    ['in the answer, unbuffered', '/unbuffered?len=3000000&drip=200'], is_ours() ? ['in the decision', '/asks', says(fault => 'hang', at => 'start')] : ()) {
    my ($title, $path, @options) = @$case;
    ask($path, '--max-time', 0.5, @options);
    ok wait_for { !$site->{app}->stats->{open} && !$site->{auth}->stats->{busy} }, "the client leaves $title: the connection is closed";
    is ask('/app')->{status}, 200, "the client leaves $title: the next one is served";
    $site->{app}->drop;
    wait_for { !$site->{app}->stats->{open} };
}
$site->expect_no_connection('at the end');
unlike $nginx->error_log, qr/\[(?:alert|crit|emerg)\]/, 'nothing worse than an error is in the log';
# A client that has left without closing delays the exit of a worker, with the stock module too.
$nginx->stop('TERM');
done_testing;
