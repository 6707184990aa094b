# nginx-conf/http2-*.conf: nginx accepts these files, with only addresses and files replaced, and they do what they promise, with an
# nginx as the server of HTTP/2, and a gRPC server.
#
# about: configuration

use strict;
use warnings;

use IPC::Open2 qw(open2);
use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my ($certificate, $key) = self_signed('example');
my ($far, $far_key) = self_signed('api.example.net');
my $app = Keepalive::Backend->start;
my %port = map { $_ => free_port() } qw(auth far plain grpc);
my %place = (
    auth => { '127\.0\.0\.1:8080' => $app->address, '127\.0\.0\.1:8090' => "127.0.0.1:$port{auth}" },
    grpc => { '/etc/nginx/grpc\.example\.com\.crt' => $certificate, '/etc/nginx/grpc\.example\.com\.key' => $key,
        '127\.0\.0\.1:5005[12]' => "127.0.0.1:$port{grpc}" },
    far  => { '/etc/ssl/certs/ca-certificates\.crt' => $far, '127\.0\.0\.1:8443' => "127.0.0.1:$port{far}" },
);
is_deeply [sort map { m{http2-(\w+)\.conf} } glob 'nginx-conf/http2-*.conf'], [sort keys %place], 'all files are tested';

# One of these files, and the port on which it listens.
sub example {
    my ($name, %changes) = @_;
    my %to = (%{ $place{$name} }, %changes);
    open my $in, '<', "nginx-conf/http2-$name.conf" or die "http2-$name.conf: $!";
    my $text = do { local $/; <$in> };
    my $port = free_port();
    ok $text =~ s/^( *listen +)\d+/${1}127.0.0.1:$port/m, "$name: it listens";
    for my $pattern (sort keys %to) {
        ok $text =~ s/$pattern/$to{$pattern}/g, "$name: the places to change are there";
    }
    # As the comment says.
    $text =~ s/^( *listen \S+ ssl);\n *http2  on;$/$1 http2;/m unless version_at_least('1.25.1');
    my $nginx = Keepalive::Nginx->new(text => $text);
    my ($accepted, $said) = $nginx->test;
    ok $accepted, "$name: accepted" or diag $said;
    unlike $said, qr/\[(?:warn|notice)\]/, "$name: without a word" or diag $said;
    return ($nginx, $port);
}

my ($has_tls, $has_http2) = map { has_feature("with-$_") } qw(http_ssl_module http_v2_module);
# A distribution's package is for its own Python.
my ($python) = grep { system("$_ -c 'import grpc' 2>/dev/null") == 0 } qw(python3 /usr/bin/python3);

# The servers: another nginx, without the module. Its log has a line for each request: protocol, connection, and what a test wants to know.
my $other;
my $seen = work_dir() . '/seen.log';
if ($has_http2) {
    my ($parameter, $directive) = version_at_least('1.25.1') ? ('', 'http2 on;') : (' http2', '');
    my $tls = '';
    for my $name ($has_tls ? qw(far plain) : ()) {
        my ($with, $on) = $name eq 'far' ? ($parameter, $directive) : ('', '');
        $tls .= "server { listen 127.0.0.1:$port{$name} ssl$with; $on ssl_certificate $far; ssl_certificate_key $far_key;\n"
            . "access_log $seen seen; location / { return 200 \"\$request_uri \$host \$ssl_server_name\"; } }\n";
    }
    $other = Keepalive::Nginx->new(module => 0, http => <<"END")->start;
log_format seen '\$server_protocol \$connection \$request_method \$http_x_original_method \$http_x_original_uri \$request_uri';
keepalive_requests 100000;
server {
    listen 127.0.0.1:$port{auth}$parameter; $directive
    access_log $seen seen;
    add_header X-User \$http_x_name;
    location / { if (\$http_x_name = '') { return 401; } return 200 "a body that nobody reads"; }
}
$tls
END
}

# What the servers have seen since the last call, one list of words for each request.
sub seen {
    my ($expected) = @_;
    my @lines;
    wait_for {
        open my $in, '<', $seen or return 0;
        @lines = <$in>;
        @lines >= $expected;
    };
    truncate $seen, 0 or die "$seen: $!";
    return map { chomp; [split ' '] } @lines;
}

sub different { my ($at, @seen) = @_; my %all = map { $_->[$at] => 1 } @seen; return join ' ', sort keys %all }

# A hundred requests, one after the other and then at once, go over at most this many connections.
sub expect_few_connections {
    my ($name, $port, $most, @headers) = @_;
    my @answers = map { get($port, "/$_", headers => \@headers) } 1 .. 5;
    push @answers, map { $_->finish } map { begin($port, "/$_", headers => \@headers, timeout => 30) } 6 .. 105;
    is scalar(grep { $_->{status} == 200 } @answers), 105, "$name: a hundred and five requests are answered";
    my @seen = seen(105);
    is scalar @seen, 105, "$name: the server has seen each once";
    is different(0, @seen), 'HTTP/2.0', "$name: by HTTP/2";
    my $connections = split ' ', different(1, @seen);
    cmp_ok $connections, '<=', $most, "$name: over $connections connections";
    return @seen;
}

{
    my ($nginx, $port) = example('auth');
    SKIP: {
        skip 'auth: this nginx has no HTTP/2', 1 unless $other;
        $nginx->start;
        my $answer = get($port, '/a?b', method => 'POST', body => 'x' x 1000, headers => ['X-Name: anne', 'X-User: root']);
        is "$answer->{status} $answer->{headers}{'x-body-length'}", '200 1000', 'auth: allowed, and the site has the body';
        is_deeply [values_of('X-User', $app->last_request)], ['anne'], 'auth: and the name that the answer has';
        is_deeply [map { [@$_[0, 2 .. 5]] } seen(1)], [[qw(HTTP/2.0 GET POST /a?b /check)]], 'auth: the question';
        is get($port, '/')->{status}, 401, 'auth: denied';
        is get($port, '/auth')->{status}, 404, 'auth: the question is nobody else\'s';
        seen(1);
        my @seen = expect_few_connections('auth', $port, 2, 'X-Name: bob');
        is different(4, @seen), join(' ', sort map { "/$_" } 1 .. 105), 'auth: each question names its URI';
        unlike $nginx->error_log, qr/\[(?:warn|error)\]/, 'auth: the log has no error';
        $nginx->stop;
    }
}
SKIP: {
    skip 'far: this nginx has no TLS', 1 unless $has_tls;
    my ($nginx, $port) = example('far');
    skip 'far: this nginx has no HTTP/2', 1 unless $other;
    $nginx->start;
    is get($port, '/a')->{body}, '/a api.example.net api.example.net', 'far: it has its name, and that is verified';
    seen(1);
    expect_few_connections('far', $port, 2);
    unlike $nginx->error_log, qr/\[(?:warn|error)\]/, 'far: the log has no error';
    $nginx->stop;

    ($nginx, $port) = example('far', '127\.0\.0\.1:8443' => "127.0.0.1:$port{plain}");
    $nginx->start;
    is get($port, "/$_")->{status}, 200, 'far: a server without HTTP/2' for 1 .. 5;
    my @seen = seen(5);
    is different(0, @seen), 'HTTP/1.1', 'far: gets HTTP/1.1';
    is scalar(split ' ', different(1, @seen)), 1, 'far: over one connection that is kept';
    $nginx->stop;

    ($nginx, $port) = example('far', '/etc/ssl/certs/ca-certificates\.crt' => $certificate);
    $nginx->start;
    is get($port, '/a')->{status}, 502, 'far: a certificate that is not trusted';
    get($port, '/a');
    is scalar(seen(0)), 0, 'far: and nothing was sent';
    $nginx->stop;
}
SKIP: {
    skip 'grpc: this nginx has no TLS, or no HTTP/2', 1 unless $has_tls && $has_http2;
    my @cases = qw(small trailers client_stream server_stream bidirectional trailers_only);
    if ($python) {
        open2(my $output, my $input, $python, 't/lib/grpc-peer.py', 'server', 0);
        my $server = <$output> // BAIL_OUT('the gRPC server does not start');
        chomp $server;
        $place{grpc}{'127\.0\.0\.1:5005[12]'} = "127.0.0.1:$server";
        my ($nginx, $port) = example('grpc');
        $nginx->start;
        my @said = `$python t/lib/grpc-peer.py client $port 0 $certificate @cases </dev/null`;
        is join('', @said), join('', map { 'ok ' . tr/_/ /r . "\n" } @cases), 'grpc: calls of each kind';
        is established($server, ($nginx->workers)[0]), 1, 'grpc: over one connection';
        $nginx->stop;
        close $input;
    }
    else {
        example('grpc');
        diag 'Python has no grpc (grpcio)';
    }
}
$other->stop if $other;

done_testing;
