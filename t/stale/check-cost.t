# What the check of idle connections and the Keep-Alive hint cost in system calls: one for each request that takes an idle
# connection, with TLS too, and one more for a connection whose server says how long it keeps it.
#
# about: cost

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'the sanitizers do not go together with it' if $ENV{TEST_NGINX_SANITIZED};
my $library = work_dir() . '/count-calls.so';
plan skip_all => 'no C compiler' if system("cc -Wall -shared -fPIC -o $library t/lib/count-calls.c -ldl >$library.log 2>&1") != 0;

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 4]);
my ($port, $secure, $secure_off) = map { free_port() } 1 .. 3;
my $tls = has_feature('with-http_ssl_module');
my $server;
if ($tls) {
    my ($certificate, $key) = self_signed('localhost');
    $server = Keepalive::Nginx->new(http => <<"END")->start;
server {
    listen 127.0.0.1:$secure ssl;
    listen 127.0.0.1:$secure_off ssl;
    keepalive_requests 10000;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / { return 200 "request \$connection_requests\n"; }
}
END
}

# Each upstream has a port of its own, for which its calls are counted.
my %ports = (plain => $backend->port(0), plain_off => $backend->port(1), hint => $backend->port(2), hint_off => $backend->port(3),
    $tls ? (tls => $secure, tls_off => $secure_off) : ());
my @names = sort keys %ports;
my ($upstreams, $locations) = ('', '');
for my $name (@names) {
    my $off = $name =~ /_off$/ ? 'keepalive_check off; keepalive_hint off;' : '';
    my $scheme = $name =~ /^tls/ ? 'https' : 'http';
    $upstreams .= "upstream $name { server 127.0.0.1:$ports{$name}; keepalive 4; keepalive_requests 10000; $off }\n";
    $locations .= "location /$name { proxy_pass $scheme://$name/; }\n";
}
my $counts = work_dir() . '/counts';
open my $file, '>', $counts or die "$counts: $!";
print $file "\0" x 256;
close $file;
my @within = ('env', "LD_PRELOAD=$library", "COUNT_CALLS=$counts", 'COUNT_PORTS=' . join ',', @ports{@names});
my $nginx = Keepalive::Nginx->new(within => \@within, http => <<"END")->start;
$proxy_keepalive
$upstreams
server { listen 127.0.0.1:$port; keepalive_requests 10000; $locations }
END

# How often nginx has read from the server of each upstream, and has asked for TCP_INFO.
sub counted {
    open my $file, '<', $counts or die "$counts: $!";
    read $file, my $bytes, 256;
    my @numbers = unpack 'Q*', $bytes;
    return map { ($names[$_] => [@numbers[2 * $_, 2 * $_ + 1]]) } 0 .. $#names;
}

# Many requests over one connection, one after the other; returns how many reads and questions each has taken.
my $requests = 200;
sub per_request {
    my ($name, $query) = @_;
    get($port, "/$name?$query");
    my %before = counted();
    my ($client, $last);
    for (1 .. $requests) {
        my $request = begin($port, "/$name?$query", keep_alive => 1, over => $client);
        $client = $request->{socket};
        ($last) = $request->receive =~ /request (\d+)\n\z/;
    }
    my %after = counted();
    is $last, $requests + 1, "$name: one connection has carried all";
    return map { ($after{$name}[$_] - $before{$name}[$_]) / $requests } 0, 1;
}

# Answers may come in pieces, and be read so.
sub is_about { my ($got, $expected, $title) = @_; ok abs($got - $expected) < 0.2, $title or diag $got }

for my $kind ('plain', $tls ? 'tls' : ()) {
    my ($on) = per_request($kind, '');
    my ($off) = per_request("${kind}_off", '');
    diag "$kind: $on reads with keepalive_check, $off without";
    is_about($on - $off, 1, "$kind: a request costs one call more");
    cmp_ok $off, '>=', 1, "$kind: calls are counted";
}

# The round trip is asked for once, with the first answer that says for how long the connection is kept.
{
    my $says = 'header=Keep-Alive:timeout%3D5';
    my $first = { counted() }->{hint}[1];
    my ($on, $asked) = per_request('hint', $says);
    my ($off) = per_request('hint_off', $says);
    is_about($on - $off, 1, 'Keep-Alive: a request costs no call more');
    is $asked, 0, 'Keep-Alive: the round trip is not asked for again';
    is { counted() }->{hint}[1] - $first, 1, 'Keep-Alive: it was asked for once';
    is { counted() }->{$_}[1], 0, "$_: nobody asks for it" for qw(plain hint_off);
}

$nginx->stop;
$server->stop if $server;
done_testing;
