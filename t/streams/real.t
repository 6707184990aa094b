# http2 with servers that others have written: nginx itself, nghttpd, Node.js, Go, HAProxy. Five hundred requests at once, every other
# one with an upload, and the others with a download, plain and with TLS.
#
# faults: F22.7 "each has its own answer"

use strict;
use warnings;

use IPC::Open2 qw(open2);
use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $file = work_dir() . '/file';
my $text = join '', map { sprintf '%07d,', $_ } 1 .. 12_500;
open my $out, '>', $file or die "$file: $!";
print $out $text;
close $out;

# Servers that keep no bodies themselves hand them on to this one, which tells their length.
my $backend = Keepalive::Backend->start;
my %port = map { $_ => free_port() } qw(nginx nginx_tls few nghttpd nghttpd_tls haproxy);
my ($certificate, $key) = self_signed('localhost');
my (@children, @inputs);

# Starts a program that ends with this test.
sub start {
    my (@command) = @_;
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>', work_dir() . '/output' or die $!;
        open STDERR, '>&', \*STDOUT or die $!;
        exec @command or POSIX::_exit(1);
    }
    push @children, $pid;
}

sub there_is { my ($name) = @_; return grep { -x "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin' }

my %server;
sub listens { my ($port) = @_; return wait_for { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) } }

if (has_feature('with-http_v2_module')) {
    my ($parameter, $directive) = version_at_least('1.25.1') ? ('', 'http2 on;') : (' http2', '');
    my $locations = "root @{[ work_dir() ]}; location /upload { proxy_pass http://@{[ $backend->address ]}; }";
    my $tls = has_feature('with-http_ssl_module')
        ? "server { listen 127.0.0.1:$port{nginx_tls} ssl$parameter; $directive\n"
            . "ssl_certificate $certificate; ssl_certificate_key $key; $locations }"
        : '';
    my $few = 'http2_max_concurrent_streams 3;';
    $few .= ' keepalive_requests 20;' if version_at_least('1.19.7');
    $server{other} = Keepalive::Nginx->new(module => 0, connections => 4096, http => <<"END")->start;
client_max_body_size 10m;
server { listen 127.0.0.1:$port{nginx}$parameter; $directive $locations }
server { listen 127.0.0.1:$port{few}$parameter; $directive $few $locations }
$tls
END
    $server{nginx} = { port => $port{nginx} };
    $server{few} = { port => $port{few} };
    $server{nginx_tls} = { port => $port{nginx_tls}, scheme => 'https' } if $tls;
}
if (there_is('nghttpd')) {
    # It demands that the first header block resets the dynamic table.
    start('nghttpd', '--no-tls', '--header-table-size=0', '--echo-upload', '-a', '127.0.0.1', '-d', work_dir(), $port{nghttpd});
    start('nghttpd', '--echo-upload', '-a', '127.0.0.1', '-d', work_dir(), $port{nghttpd_tls}, $key, $certificate);
    $server{nghttpd} = { port => $port{nghttpd}, echoes => 1 };
    $server{nghttpd_tls} = { port => $port{nghttpd_tls}, echoes => 1, scheme => 'https' } if has_feature('with-http_ssl_module');
}
if ((`node --version 2>/dev/null` // '') =~ /^v\d/) {
    for my $streams (0, 7) {
        open2(my $output, my $input, 'node', 't/lib/node-http2-server.js', $streams);
        my $port = <$output> // BAIL_OUT('Node.js does not start');
        chomp $port;
        push @inputs, $input;
        $server{"node_$streams"} = { port => $port, echoes => 1, path => '/100000', is => 'n' x 100_000 };
    }
}
if (there_is('go')) {
    local @ENV{qw(GO111MODULE GOFLAGS GOPATH GOCACHE)} = ('off', '', '/usr/share/gocode', work_dir() . '/go');
    my $program = work_dir() . '/h2-server';
    if (system("go build -o $program t/lib/h2-server.go >/dev/null 2>&1") == 0) {
        open2(my $output, my $input, $program);
        my $port = <$output> // BAIL_OUT('the server in Go does not start');
        chomp $port;
        push @inputs, $input;
        $server{go} = { port => $port, echoes => 1, path => '/100000', is => 'g' x 100_000 };
    }
}
if (there_is('haproxy')) {
    my $config = work_dir() . '/haproxy.cfg';
    open my $written, '>', $config or die "$config: $!";
    print $written <<"END";
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend h2
    bind 127.0.0.1:$port{haproxy} proto h2
    default_backend scripted
backend scripted
    server one @{[ $backend->address ]}
END
    close $written;
    start('haproxy', '-db', '-f', $config);
    $server{haproxy} = { port => $port{haproxy}, path => '/?len=100000', is => 'x' x 100_000 };
}
my $other = delete $server{other};
plan skip_all => 'there is no server of HTTP/2' unless %server;
my @missing = grep { my $name = $_; !grep { /^$name/ } keys %server } qw(nginx nghttpd node go haproxy);
diag 'not here: ', join ', ', @missing if @missing;

my ($blocks, $locations) = ('', '');
for my $name (sort keys %server) {
    ok listens($server{$name}{port}), "$name has started";
    $blocks .= "upstream $name { server 127.0.0.1:$server{$name}{port} max_fails=0; keepalive 4; http2 on; }\n";
    my $pass = "proxy_pass @{[ $server{$name}{scheme} // 'http' ]}://$name/;";
    $locations .= "location /$name/ { $pass }\n";
    $locations .= "location /frames/$name/ { proxy_http_version 2; $pass }\n" if version_at_least('1.29.4');
}
my $port = free_port();
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
client_max_body_size 10m;
client_body_buffer_size 16k;
proxy_read_timeout 60s;
$blocks
server { listen 127.0.0.1:$port backlog=2048; $locations }
END
my ($worker) = $nginx->workers;

for my $name (sort keys %server) {
    my $server = $server{$name};
    my ($path, $is) = ($server->{path} // '/file', $server->{is} // $text);
    is get($port, "/frames/$name$path")->{body}, $is, "$name: a download by frames" if version_at_least('1.29.4');
    is get($port, "/$name$path")->{body}, $is, "$name: a download";
    my $upload = get($port, "/$name/upload", method => 'POST', body => $text);
    is $server->{echoes} ? $upload->{body} : $upload->{headers}{'x-body-length'}, $server->{echoes} ? $text : length $text,
        "$name: an upload";
    is get($port, "/$name$path", method => 'HEAD')->{body}, '', "$name: HEAD" unless $name =~ /^node/;

    my @requests = map {
        my $length = 20_000 + $_;
        $_ % 2 ? begin($port, "/$name/upload?n=$_", method => 'POST', body => substr($text, $_, $length), timeout => 60)
            : begin($port, "/$name$path", timeout => 60);
    } 1 .. 500;
    my $connections = established($server->{port}, $worker);
    my @wrong;
    for my $number (1 .. 500) {
        my $answer = $requests[$number - 1]->finish;
        my ($got, $expected) = ($answer->{body}, $is);
        ($got, $expected) = $server->{echoes} ? ($got, substr $text, $number, 20_000 + $number)
            : ($answer->{headers}{'x-body-length'} // '', 20_000 + $number) if $number % 2;
        push @wrong, "$number: $answer->{status}" if $answer->{status} != 200 || $got ne $expected;
    }
    is join(', ', @wrong), '', "$name: five hundred at once: each has its own answer";
    # A server that ends connections has some that are about to close.
    cmp_ok $connections, '<=', $name eq 'few' ? 10 : 2, "$name: over $connections connections";
    is get($port, "/$name$path")->{body}, $is, "$name: and another one";
}

is join(' ', $nginx->workers), $worker, 'the worker has lived on';
unlike $nginx->error_log, qr/\[(?:error|warn)\](?!.*buffered to a temporary file)/, 'the log has no error';
$nginx->stop;
$other->stop if $other;
done_testing;

END {
    local ($?, $!);
    if (@children) {
        kill TERM => @children;
        waitpid $_, 0 for @children;
    }
}
