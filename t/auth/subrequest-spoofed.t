# auth_subrequest_copy_header when a request is denied or redirected before its location serves it. The location that then
# serves it copies nothing, and still must not get headers that the client has invented.
#
# faults: F20.9 "the server gets none of the client's" "the second question has what the client sent"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Setup;

needs_module();

my ($http2_port, $tls_port, $own_port) = map { free_port() } 1 .. 3;
my $http2 = http2_listen($http2_port);
my $dir = work_dir();
my $seen = "$dir/seen.log";
mkdir "$dir/files";
my $tls = has_feature('with-http_ssl_module');
my ($crt, $key) = $tls ? self_signed('site') : ();
sub page { my ($name, $text) = @_; open my $out, '>', "$dir/files/$name" or die $!; print $out $text; close $out }
page('page.html', '<!--# include virtual="/elsewhere" -->');
page('passwords', "somebody:{PLAIN}secret\n");

# Each of these is on the way to /elsewhere or to @elsewhere, which proxy to the same server and copy nothing.
my %way = (
    'too-large'  => 'client_max_body_size 10; error_page 413 = $to;',
    'deny'       => 'deny all; error_page 403 = $to;',
    'basic'      => "auth_basic r; auth_basic_user_file $dir/files/passwords; error_page 401 = \$to;",
    'request'    => 'auth_request /no; error_page 403 = $to;',
    'answer'     => 'auth_subrequest /no; error_page 403 = $to;',
    'rate'       => 'limit_req zone=rate; error_page 503 = $to;',
    'connection' => 'limit_conn conn 1; error_page 503 = $to; proxy_pass http://app/?delay=20000;',
    'return'     => 'return 503; error_page 503 = $to;',
    'if'         => 'if ($http_x_auth != none) { return 403; } error_page 403 = $to;',
    'nothing'    => 'error_page 404 = $to; root ' . "$dir/files;",
    'try'        => 'try_files /none $to;',
    'gone'       => 'error_page 502 = $to; proxy_pass http://127.0.0.1:1;',
    'intercept'  => 'proxy_intercept_errors on; error_page 404 = $to; proxy_pass http://app/?status=404;',
    'twice'      => 'return 503; error_page 503 = /twice-again; recursive_error_pages on;',
    'own'        => 'auth_subrequest_copy_header X-Other X-User; return 503; error_page 503 = $to;',
);
my $ways = '';
for my $to ('/elsewhere', '@elsewhere') {
    for my $name (sort keys %way) {
        my $inside = $way{$name} =~ s/\$to/$to/gr;
        my $list = $inside =~ /copy_header/ ? '' : 'auth_subrequest_copy_header X-User;';
        my $path = $name . ($to =~ /^@/ ? '-named' : '');
        $ways .= "location /way/$path { $list $inside }\n";
    }
}

my $locations = <<"END";
    auth_subrequest_pass_status 403;
    access_log $seen seen;
    large_client_header_buffers 4 2k;
    $ways
    location /elsewhere { internal; proxy_pass http://app; }
    location \@elsewhere { proxy_pass http://app; }
    location = /no { internal; return 403; }
    location /twice-again { return 404; error_page 404 = \@elsewhere; }
    location /rewritten { auth_subrequest_copy_header X-User; rewrite ^ /elsewhere last; }
    location /unseen { rewrite ^ /way/too-large last; }
    location /unseen-named { rewrite ^ /way/too-large-named last; }
    location /nested { location /nested/in { auth_subrequest_copy_header X-User; deny all; error_page 403 = \@elsewhere; } }
    location /method { limit_except GET { deny all; } auth_subrequest_copy_header X-User; error_page 403 = \@elsewhere; }
    location /after { auth_subrequest_copy_header X-User; post_action /elsewhere; return 403; }
    location /page { auth_subrequest_copy_header X-User; ssi on; default_type text/html; alias $dir/files/page.html; }
    location /mirrored { auth_subrequest_copy_header X-User; mirror /elsewhere; root $dir/files; }
    location /free { proxy_pass http://app; }
    location /free-away { return 503; error_page 503 = \@elsewhere; }
    location /free-rewritten { rewrite ^ /elsewhere last; }
    location /free-break { rewrite ^ /x? break; proxy_pass http://app; }
    location /refused { auth_subrequest_copy_header X-User; deny all; }
    location /small { auth_subrequest_copy_header X-User; client_max_body_size 10; }
    location /accel { auth_subrequest /auth; auth_subrequest_copy_header X-User; proxy_pass http://app/?header=X-Accel-Redirect:/elsewhere; }
    location /set-in { auth_subrequest_copy_header X-User; deny all; error_page 403 = \@set; }
    location \@set { proxy_set_header X-User "<\$http_x_user>"; proxy_pass http://app; }
    location /known { auth_subrequest_copy_header Authorization Cookie X-Forwarded-For; deny all; error_page 403 = \@known; }
    location \@known { proxy_set_header X-Name "\$remote_user\$cookie_a\$proxy_add_x_forwarded_for"; proxy_pass http://app; }
    location /two { auth_subrequest /auth; auth_subrequest_copy_header Authorization X-User X-Forwarded-For; try_files /none /second; }
    location /second { auth_subrequest /auth?second; auth_subrequest_copy_header X-User; proxy_pass http://app; }
    location /both { auth_basic r; auth_basic_user_file $dir/files/passwords; auth_subrequest /auth; auth_subrequest_copy_header Authorization; proxy_pass http://app; }
    location /denied-first { auth_subrequest /no; auth_subrequest_copy_header Authorization X-User; error_page 403 = /second; }
END
my $ssl = $tls
    ? "server { listen 127.0.0.1:$tls_port ssl; ssl_certificate $crt; ssl_certificate_key $key; ssl_verify_client on;"
    . " ssl_client_certificate $crt; error_page 495 496 497 = \@elsewhere;"
    . ' location / { auth_subrequest_copy_header X-User; } location @elsewhere { proxy_pass http://app; } }'
    : '';
my $site = Keepalive::Auth->new(http => <<"END", locations => $locations . ($http2 // ''))->start;
log_format seen '\$http_x_number|\$http_x_user|\$remote_user|\$cookie_a';
limit_req_zone all zone=rate:64k rate=1r/m;
limit_conn_zone all zone=conn:64k;
$ssl
server {
    listen 127.0.0.1:$own_port;
    large_client_header_buffers 4 2k;
    error_page 400 405 494 = \@elsewhere;
    location /app { auth_subrequest_copy_header X-User; }
    location \@elsewhere { proxy_pass http://app; }
}
END

my @spoofed = ('X-User: root', 'x-user: root', 'X-uSeR: admin');

# What the app has got of X-User by the last request.
sub got {
    my ($status) = @_;
    my $request = $site->{app}->last_request;
    return join '; ', $status, grep { /^x[-_]user/i } @{ $request->{headers} };
}
# A header by which the request is found in the log, and what the log has of it.
my $number = 0;
sub numbered { return 'X-Number: ' . ++$number }
sub logged {
    my $line;
    wait_for {
        open my $in, '<', $seen or return;
        ($line) = grep { /^$number\|/ } <$in>;
    };
    return ($line // 'not logged') =~ s/\n//r;
}
sub by {
    my ($path, %options) = @_;
    return got($site->get($path, 'status=204', headers => [@spoofed, numbered()], %options)->{status});
}

my $requests = $site->{app}->stats->{requests};
my $held = $site->begin('/way/connection', '');
ok wait_for { $site->{app}->stats->{requests} > $requests }, 'one request holds its location';
$site->status('/way/rate', '');
for my $name (sort keys %way) {
    for my $path ("/way/$name", "/way/$name-named") {
        is by($path, $name eq 'too-large' ? (method => 'POST', body => 'x' x 100) : ()), '200', "$path: the server gets none of the client's";
        like logged(), qr/^\d+\|-?\|/, "$path: nor does the log";
    }
}
$held->abort;
for my $path (qw(/rewritten /unseen /unseen-named /nested/in /method)) {
    is by($path, method => 'POST', body => 'x' x 100), '200', "$path: none of the client's";
}
is by('/page'), '200', 'SSI: none';
for my $case (['/after', 403, 'post_action'], ['/mirrored', 404, 'mirror']) {
    my ($path, $status, $title) = @$case;
    my $before = $site->{app}->stats->{requests};
    is $site->status($path, '', headers => \@spoofed), $status, "$title: the response";
    ok wait_for { $site->{app}->stats->{requests} > $before }, "$title: the other request";
    is got('asked'), 'asked', "$title: without the header";
}
is by('/accel'), '200', 'X-Accel-Redirect: none';
is got($site->get('/accel', 'header=X-User:alice', headers => \@spoofed)->{status}), '200; X-User: alice',
    'X-Accel-Redirect: what the answer said goes with the request';
is by('/set-in'), '200; X-User: <>', 'the variable of another location agrees';

# No location was ever in effect that copies the header: it is the client's own affair.
for my $path (qw(/free /free-away /free-rewritten /free-break)) {
    is by($path), '200; X-User: root; x-user: root; X-uSeR: admin', "$path: left alone";
}

# Refused by nginx itself: the log.
for my $case (['/refused', 403], ['/small', 413]) {
    my ($path, $status) = @$case;
    is $site->status($path, '', headers => [@spoofed, numbered()], method => 'POST', body => 'x' x 100), $status, "$path: refused";
    like logged(), qr/^\d+\|-?\|/, "$path: the log does not name the user";
}

# Headers that nginx knows itself.
my $answer = $site->get('/known', '', headers => ['Authorization: Basic Y2xpZW50Om93bg==', 'Cookie: a=client',
    'X-Forwarded-For: 1.1.1.1', 'Cookie: b=c', numbered()]);
my @headers = @{ $site->{app}->last_request->{headers} };
is join('; ', grep { /^(?:Authorization|Cookie|X-Forwarded-For|X-Name)/i } @headers), 'X-Name: 127.0.0.1',
    'known headers: gone, and from their variables';
like logged(), qr/^\d+\|-?\|-?\|-?$/, 'known headers: and from the log';

# nginx refuses the request before it looks for its location.
sub raw {
    my ($port, $text) = @_;
    my $before = $site->{app}->stats->{requests};
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!;
    print $socket $text;
    my $answer = do { local $/; <$socket> } // '';
    return 'not asked' if $site->{app}->stats->{requests} == $before;
    return got($answer =~ m{^HTTP/1.1 (\d+)} ? $1 : 'none');
}
for my $case (
    ['400', "GET /app HTTP/1.1\r\nX-User: root\r\nConnection: close\r\n\r\n"],
    ['405', "TRACE /app HTTP/1.1\r\nHost: a\r\nX-User: root\r\nConnection: close\r\n\r\n"],
    ['494', "GET /app HTTP/1.1\r\nHost: a\r\nX-User: root\r\nConnection: close\r\nX-Large: " . 'x' x 5000 . "\r\n\r\n"],
) {
    my ($status, $text) = @$case;
    is raw($own_port, $text), '200', "error_page $status: none of the client's";
}
SKIP: {
    skip 'no TLS', 2 unless $tls;
    is raw($tls_port, "GET /app HTTP/1.1\r\nHost: a\r\nX-User: root\r\nConnection: close\r\n\r\n"), '200',
        "error_page 497: none of the client's";
    my $before = $site->{app}->stats->{requests};
    system "curl -sk -o $dir/curl -H 'X-User: root' https://127.0.0.1:$tls_port/app";
    is $site->{app}->stats->{requests}, $before + 1, 'error_page 496: the server is asked';
    is got(''), '', "error_page 496: none of the client's";
}
SKIP: {
    skip 'no HTTP/2', 3 unless $http2;
    for my $path (qw(/way/deny /way/deny-named /way/return)) {
        is got(curl($http2_port, $path, map { ('-H', $_) } @spoofed)->{status}), '200', "HTTP/2: $path";
    }
}

# A later question has the client's headers, not those from an answer.
my @client = ('Authorization: Bearer client', 'X-User: root', 'X-Forwarded-For: 1.1.1.1', 'x-forwarded-for: 2.2.2.2');
for my $path (qw(/two /denied-first)) {
    my $script = script(header => 'Authorization:Bearer internal', header => 'X-User:alice');
    is got($site->get($path, $script, headers => \@client)->{status}), '200; X-User: alice', "$path: what the answer said";
    my $asked = $site->{auth}->last_request;
    is_deeply [map { values_of($_, $asked) } qw(Authorization X-User X-Forwarded-For)],
        ['Bearer client', 'root', '1.1.1.1', '2.2.2.2'], "$path: the second question has what the client sent";
}

# What comes before the content has what the client has sent, too.
my @known = ('Authorization: Basic c29tZWJvZHk6c2VjcmV0');
is $site->status('/both', 'status=204'), 401, 'auth_basic: without a password';
$answer = $site->get('/both', script(header => 'Authorization:Bearer internal'), headers => \@known);
is join('; ', $answer->{status}, values_of('Authorization', $site->{app}->last_request)), '200; Bearer internal',
    'auth_basic: with one, and the server has what the answer said';

$site->stop;
done_testing;
