# A server that was promised a request body takes the next bytes for it. So a connection on which the announced body was not
# sent, as for a POST through auth_request, is never used again. All others are, as with the stock module.
#
# faults: F8.1 "closed: answered while the client is still sending"
# faults: F20.4 "closed: authorised, HTTP/2"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth qw(curl http2_listen);
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Setup;
use Keepalive::Unread;

plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($one, $two) = map { 'server ' . $backend->address($_) } 0, 1;
my ($secure, $second) = map { free_port() } 1, 2;
my $http2 = http2_listen($second);
my %upstreams = (pool => "$one; keepalive 4;", both => "$one max_fails=0; $two backup; keepalive 4;");
my $http = '';
if (has_feature('with-http_ssl_module')) {
    my ($certificate, $key) = self_signed('localhost');
    $upstreams{tls} = "server 127.0.0.1:$secure; keepalive 4;";
    $http = <<"END";
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / {
        proxy_hide_header X-Connection;
        proxy_hide_header X-Request;
        add_header X-Connection \$connection always;
        add_header X-Request \$connection_requests always;
        proxy_pass http://pages;
    }
}
END
}
if ($http2) {
    $http .= <<"END";
server {
    $http2
    location /plain { proxy_pass http://pool; }
    location /unbuffered { proxy_request_buffering off; proxy_pass http://pool; }
    location /authorised { auth_request /ask; proxy_pass http://pages; }
    location /careful { auth_request /careful_ask; proxy_pass http://pages; }
    location /ask { proxy_pass http://pool/?early=1&status=204; }
    location /careful_ask {
        proxy_pass http://pool/?status=204;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
}
END
}

# Locations by what stands in them; the script of the answer is in the header X-Script.
my $pass = 'proxy_pass http://pool/?$http_x_script;';
my $empty = 'proxy_set_header Content-Length "";';
my %inside = (
    authorised    => 'auth_request /ask; proxy_pass http://pages;',
    ask           => $pass,
    careful       => 'auth_request /careful_ask; proxy_pass http://pages;',
    careful_ask   => "$pass proxy_pass_request_body off; $empty",
    mirrored      => 'mirror /ask; proxy_pass http://pages;',
    bodiless      => 'mirror /ask; mirror_request_body off; proxy_pass http://pages;',
    bodiless_careful => 'mirror /careful_ask; mirror_request_body off; proxy_pass http://pages;',
    plain         => $pass,
    unbuffered    => "$pass proxy_request_buffering off;",
    file          => "$pass client_body_buffer_size 1k; sendfile on;",
    no_sendfile   => "$pass client_body_buffer_size 1k; sendfile off;",
    file_only     => "$pass client_body_in_file_only clean; sendfile on;",
    set_body      => "$pass proxy_set_body 'something else';",
    set_nothing   => "$pass proxy_set_body '';",
    length_copied => "$pass proxy_set_header Content-Length \$http_content_length;",
    length_right  => "$pass proxy_set_header content-length 5;",
    headers_off   => "$pass proxy_pass_request_headers off;",
    body_off      => "$pass proxy_pass_request_body off;",
    body_off_careful => "$pass proxy_pass_request_body off; $empty",
    no_length     => "$pass $empty",
    chunked_too   => "$pass proxy_set_header Transfer-Encoding chunked;",
    chunked_only  => "$pass $empty proxy_set_header Transfer-Encoding chunked;",
    length_alone  => "$pass proxy_set_header Content-Length 40;",
    discarded     => 'mirror /ask; mirror_request_body off; alias ' . work_dir() . '/page;',
    pixel         => 'mirror /ask; mirror_request_body off; empty_gif;',
    accel         => 'proxy_pass http://pool/?header=X-Accel-Redirect:/instead&$http_x_script;',
    intercept     => "$pass proxy_intercept_errors on; error_page 404 413 = /instead;",
    next          => 'proxy_next_upstream http_404 non_idempotent; proxy_pass http://both/?$http_x_script;',
    secure        => 'proxy_pass https://tls/;',
);
open my $page, '>', work_dir() . '/page' or die $!;
close $page;
my $nginx = Keepalive::Unread->new($backend, \%upstreams, http => "client_max_body_size 20m;\n$http", locations => join '',
    map { qq(location /$_ { proxy_set_header Connection ""; $inside{$_} }\n) } sort keys %inside);
my $port = $nginx->{port};

# The status a client gets, and what has become of the connection that carried its request to the upstream (or that of the
# subrequest).
sub fate {
    my ($name, $request) = @_;
    my ($connection, $before) = $nginx->who($name);
    my $requests = $backend->requests;
    my $status = $request->();
    wait_for { $backend->requests > $requests };
    $nginx->settle;
    my ($next, $after) = $nginx->who($name);
    return "$status, " . ($next != $connection ? 'closed' : $after == $before + 2 ? 'kept' : "request $after, not $before + 2");
}

sub post {
    my ($path, $script, @body) = @_;
    return get($port, "/$path", method => 'POST', @body, headers => { 'X-Script' => $script })->{status};
}

sub kept {
    my ($path, $script, @body) = @_;
    # What the upstream says reaches the client if nothing stands between them.
    my $told = $path !~ /auth|careful|mirror|bodiless|intercept|accel|next/ && $script =~ /status=(\d+)/ ? $1 : 200;
    my $name = $path eq 'next' ? 'both' : 'pool';
    is fate($name, sub { post($path, $script, @body) }), "$told, kept", "kept: $path $script @{[ $body[0] // '' ]}";
}

# A connection with a body in doubt: neither the next request nor any other one after it suffers.
sub closed {
    my ($path, $script, @body) = @_;
    my $title = "closed: $path $script @{[ $body[0] // '' ]}";
    like fate('pool', sub { post($path, $script, @body) }), qr/^\d{3}, closed$/, $title;
    is_deeply [map { ($nginx->who('pool'))[1] } 1 .. 3], [2 .. 4], "$title: and the next ones are served as ever";
}

my @text = (body => 'x' x 1000);
my @smuggled = (body => "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
my @chunks = (chunks => ['x' x 600, 'x' x 400]);
my @large = (body => 'x' x 3_000_000);

# Correct with both modules. First subrequests without the body, which do not announce it either.
for my $body (\@text, \@large, \@chunks, [content_length => 0], []) {
    kept($_, 'status=204', @$body) for qw(careful bodiless_careful mirrored);
    kept('authorised', 'status=204', @$body) if !@$body || $body->[0] ne 'body';
    kept('body_off_careful', '', @$body);
}
# Then the body as it is, in every way that nginx can send one.
for my $body (\@text, \@large, \@chunks, [body => ''], \@smuggled) {
    kept($_, '', @$body) for qw(plain unbuffered file no_sendfile);
    if ($upstreams{tls}) {
        my @three = map { get($port, '/secure', method => 'POST', @$body)->{headers} } 1 .. 3;
        is $three[2]{'x-request'} - $three[0]{'x-request'}, 2, "kept: TLS $body->[0]";
        is $three[2]{'x-body-length'}, $body->[0] eq 'chunks' ? 1000 : length $body->[1], 'and it has come whole';
    }
}
for my $body (\@text, \@chunks) {
    kept($_, 'framing=chunked', @$body) for qw(plain unbuffered file_only set_body headers_off);
}
kept('length_copied', '', @text);
kept('set_nothing', '', body => '');
kept('length_right', '', body => '12345');
kept('plain', 'early=1', @text);
is fate('pool', sub { get($port, '/plain', method => 'DELETE', body => 'x')->{status} }), '200, kept', 'kept: DELETE with a body';
is fate('pool', sub { get($port, '/plain', body => 'x')->{status} }), '200, kept', 'kept: GET with a body';
{
    my $continued = sub {
        my $client = begin($port, '/plain', method => 'POST', content_length => 1000, headers => { Expect => '100-continue' });
        like $client->receive, qr/^HTTP\/1.1 100 /, 'Expect: 100-continue is answered by nginx';
        $client->more('x' x 1000);
        $client->finish->{status};
    };
    is fate('pool', $continued), '200, kept', 'kept: Expect: 100-continue';
}
SKIP: {
    skip 'nginx or curl has no HTTP/2', 1 unless $http2;
    my @headless = ('--data-binary', '@' . work_dir() . '/body', '-H', 'Content-Length:');
    open my $out, '>', work_dir() . '/body' or die $!;
    print $out 'x' x 100_000;
    close $out;
    for my $data (['-d', 'x' x 1000], \@headless) {
        for my $path (qw(plain unbuffered careful)) {
            is fate('pool', sub { curl($second, "/$path", @$data)->{status} }), '200, kept', "kept: $path, HTTP/2, $data->[0]";
        }
    }
    like fate('pool', sub { curl($second, '/authorised', '-d', 'x' x 1000)->{status} }), qr/^200, closed/, 'closed: authorised, HTTP/2' if is_ours();
}

# The server answers before it has the whole body: which bytes it takes for the next request is unknown.
my $refused = 'early=1&status=413&len=1&fault=hang&after=400';
closed($_, $refused, body => 'x' x 15_000_000) for qw(plain unbuffered intercept);
{
    my $half = sub {
        my $client = begin($port, '/unbuffered', method => 'POST', content_length => 1000, body => 'x', headers => { 'X-Script' => 'early=1&status=413' });
        my $status = $client->receive =~ m{^HTTP/1.1 (\d+)} ? $1 : '?';
        $client->abort;
        return $status;
    };
    is fate('pool', $half), '413, closed', 'closed: answered while the client is still sending';
}

SKIP: {
    skip 'needs the module', 1 unless is_ours();

    # Bodies announced and not sent. The server does not wait for them, so the stock module uses the connections again.
    for my $script ('early=1&status=204', 'early=1&body=OK', 'early=1&framing=chunked&body=OK', 'early=1&status=401&body=login', 'early=1&len=3000&drip=2') {
        closed($_, $script, @text) for qw(authorised bodiless);
    }
    closed('body_off', 'early=1', @text);
    closed('authorised', 'early=1&status=204', @large);
    is fate('pool', sub { get($port, '/authorised', method => 'GET', @text, headers => { 'X-Script' => 'early=1&status=204' })->{status} }),
        '200, closed', 'closed: authorised, GET with a body';

    # What reads the body meanwhile, to throw it away.
    for my $name (qw(discarded pixel)) {
        closed($name, 'early=1&status=204', @text);
        is fate('pool', sub { get($port, "/$name", method => 'GET', @text, headers => { 'X-Script' => 'early=1&status=204' })->{status} }),
            '200, closed', "closed: $name, GET with a body";
    }
    # A body that nginx has not received either.
    closed('length_alone', 'early=1');

    # Bodies sent and not announced, or announced in another way.
    closed('no_length', 'early=1', @$_) for \@text, \@smuggled;
    closed('length_copied', 'early=1', @chunks);
    closed('length_right', 'early=1', @$_) for [body => '1234'], [body => '123456'];
    closed($_, 'early=1', @text) for qw(chunked_too chunked_only);

    # Answers left unread, to requests with a body that was sent, or not announced.
    for my $script ('body=OK', 'framing=chunked&len=5000', 'len=500&drip=2') {
        for my $body (\@text, \@chunks, \@large) {
            kept($_, $script, @$body) for qw(mirrored accel);
            next if $body == \@large;
            kept($_, $script, @$body) for qw(careful bodiless_careful);
            kept($_, "$script&status=404", @$body) for 'intercept';
            kept('next', "$script&status=404&only=0", @$body);
        }
        kept('authorised', $script, @chunks);
    }
}
$nginx->stop;
done_testing;
