# Connections never cross identities: a connection is used again only if everything that shaped it is equal.
#
# faults: F10.1 "separate('SNI'" "separate('client certificate'" "with verification it will not, though a connection is idle"
# faults: F10.1 "a wrong one still will not" "separate('proxy_bind'"
# faults: F10.2 "HTTP/2 by proxy_pass" "a plain request does not go over a TLS connection"
# faults: F10.2 "local: the second one does not get it"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my ($certificate, $key) = self_signed('localhost');
my ($other_ca) = self_signed('other');
my %client = map { $_ => [self_signed($_)] } qw(alice bob);
my $dir = work_dir();
for my $name (keys %client) {
    symlink $client{$name}[0], "$dir/client-$name.crt";
    symlink $client{$name}[1], "$dir/client-$name.key";
}
my ($port, $secure, $plain, $both) = map { free_port() } 1 .. 4;

# With http2 on, HTTP/1.1 and HTTP/2 come over one port from 1.25.1 on.
my $two_protocols = version_at_least('1.25.1') && has_feature('with-http_v2_module');
my $proxy_http2 = $two_protocols && version_at_least('1.29.4');

sub locations {
    my ($text) = @_;
    return join "\n", map { /^\s*$/ ? () : do { my ($path, $body) = /^\s*(\S+)\s+(.*)/; "location $path { $body }" } }
        split /\n/, $text;
}

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_ssl_session_reuse off;
proxy_ssl_name localhost;

upstream secure { server 127.0.0.1:$secure; keepalive 16; }
upstream plain  { server 127.0.0.1:$plain; keepalive 16; }
upstream local  { server 127.0.0.1:$plain; keepalive 16 local; }
upstream both   { server 127.0.0.1:$both; keepalive 16; }
upstream moving { server 127.0.0.1:$secure; keepalive 16; }

# What the balancer has chosen, by way of a map that is evaluated once; and values that change while the request runs.
map \$upstream_addr \$chosen { default wrong; ~:$secure\$ right; }
map "\$arg_m:\$upstream_addr:\$upstream_status" \$there_and_back { volatile; "~^x:127.*:-\$" odd; default even; }
map "\$arg_m:\$upstream_connect_time" \$once { volatile; "~^x:-\$" alice; default bob; }

# What the server saw of the connection.
server {
    listen 127.0.0.1:$secure ssl;
    listen 127.0.0.1:$plain;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_verify_client optional_no_ca;
    location / {
        return 200 "request=\$connection_requests sni=\$ssl_server_name dn=\$ssl_client_s_dn from=\$remote_addr\\n";
    }
}
@{[ $two_protocols ? <<"H2" : '' ]}
server {
    listen 127.0.0.1:$both;
    http2 on;
    location / { add_header grpc-status 0; return 200 "request=\$connection_requests protocol=\$server_protocol\\n"; }
}
H2

server {
    listen 127.0.0.1:$port;
@{[ locations(<<"LOCATIONS") ]}
    /plain/1        proxy_pass http://plain;
    /plain/2        proxy_pass http://plain;
    /local/1        proxy_pass http://local;
    /local/2        proxy_pass http://local;
    /bind/1         proxy_pass http://plain; proxy_bind 127.0.0.1;
    /bind/2         proxy_pass http://plain; proxy_bind 127.0.0.2;
    /bind/var       proxy_pass http://plain; proxy_bind \$arg_v;
    /https          proxy_pass https://secure;
    /http           proxy_pass http://secure;
    /sni/a          proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name a.test;
    /sni/b          proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name b.test;
    /sni/var        proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name \$arg_v;
    /cert/alice     proxy_pass https://secure; proxy_ssl_certificate $client{alice}[0]; proxy_ssl_certificate_key $client{alice}[1];
    /cert/bob       proxy_pass https://secure; proxy_ssl_certificate $client{bob}[0]; proxy_ssl_certificate_key $client{bob}[1];
    /cert/var       proxy_pass https://secure; proxy_ssl_certificate $dir/client-\$arg_v.crt; proxy_ssl_certificate_key $dir/client-\$arg_v.key;
    /verify/off     proxy_pass https://secure; proxy_ssl_verify off; proxy_ssl_trusted_certificate $other_ca;
    /verify/on      proxy_pass https://secure; proxy_ssl_verify on; proxy_ssl_trusted_certificate $other_ca;
    /verify/right   proxy_pass https://secure; proxy_ssl_verify on; proxy_ssl_trusted_certificate $certificate;
    /verify/name    proxy_pass https://secure; proxy_ssl_verify on; proxy_ssl_trusted_certificate $certificate; proxy_ssl_name \$arg_v;
    /both/h1        proxy_pass http://both;
    /chosen         proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name \$chosen.test;
    /address        proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name "x\$upstream_addr";
    /moving         proxy_pass https://moving; proxy_ssl_server_name on; proxy_ssl_name \$there_and_back.test;
    /moving/cert    proxy_pass https://moving; proxy_ssl_session_reuse on; proxy_ssl_certificate $dir/client-\$once.crt; proxy_ssl_certificate_key $dir/client-\$once.key;
@{[ $two_protocols ? "    /both/grpc grpc_pass grpc://both;" : '' ]}
@{[ $proxy_http2 ? "    /both/h2 proxy_pass http://both; proxy_http_version 2;" : '' ]}
LOCATIONS
}
END

# Asks for each path in turn, then for each once more, and compares what the server saw. Each path must get a connection of its
# own the first time ("1"), and the very same one the second time ("2").
sub separate {
    my ($what, $field, @cases) = @_;
    for my $round (1, 2) {
        for my $case (@cases) {
            my ($path, $expected) = @$case;
            my $answer = get($port, $path);
            my ($request) = $answer->{body} =~ /request=(\d+)/;
            my ($seen) = $answer->{body} =~ /\b$field=(.*?)(?: \w+=|\n)/;
            is $seen, $expected, "$what: $path, round $round, is seen as it should be";
            is $request, $round, "$what: $path, round $round, " . ($round == 1 ? 'opens a connection' : 'reuses it');
        }
    }
}

separate('proxy_bind', 'from', ['/bind/1', '127.0.0.1'], ['/bind/2', '127.0.0.2'],
    ['/bind/var?v=127.0.0.3', '127.0.0.3'], ['/bind/var?v=127.0.0.4', '127.0.0.4']);
is get($port, '/bind/var?v=127.0.0.2')->{body} =~ /request=(\d+)/ && $1, 3, 'an equal address by a variable is equal';
like get($port, '/plain/1')->{body}, qr/request=1 /, 'not bound is another identity than bound';

like get($port, '/plain/2')->{body}, qr/request=2 /, 'plain connections of different locations are shared';
like get($port, '/local/1')->{body}, qr/request=1 /, 'local: the first location opens a connection';
like get($port, '/local/2')->{body}, qr/request=1 /, 'local: the second one does not get it';
like get($port, '/local/1')->{body}, qr/request=2 /, 'local: the first one does';

separate('SNI', 'sni', ['/sni/a', 'a.test'], ['/sni/b', 'b.test'],
    ['/sni/var?v=c.test', 'c.test'], ['/sni/var?v=d.test', 'd.test']);
like get($port, '/sni/var?v=c.test:443')->{body}, qr/request=3 sni=c.test /, 'a port is no part of the name';

# The name may depend on what the balancer has chosen, also if nginx evaluates it only once.
separate('name by the chosen server', 'sni', ['/chosen', 'right.test'], ['/address', 'x127.0.0.1']);

# A value that changes during a request: a connection whose value is unknown is not used again.
for my $path ('/moving', '/moving/cert') {
    my $field = $path eq '/moving' ? 'sni' : 'dn';
    my ($seen) = get($port, "$path?m=x")->{body} =~ /$field=(\S*)/;
    for (1 .. 3) {
        my ($plain) = get($port, $path)->{body} =~ /$field=(\S*)/;
        is $plain, $field eq 'sni' ? 'even.test' : 'CN=bob', "$path: after $seen the request gets its own";
    }
}

separate('client certificate', 'dn', ['/cert/alice', 'CN=alice'], ['/cert/bob', 'CN=bob'],
    ['/cert/var?v=alice', 'CN=alice'], ['/cert/var?v=bob', 'CN=bob'], ['/https', '']);

# A connection stored by another location would answer each of these with 200.
is get($port, '/https')->{status}, 200, 'a TLS connection is idle';
is get($port, '/http')->{status}, 400, 'a plain request does not go over a TLS connection';
is get($port, '/verify/off')->{status}, 200, 'without verification any certificate will do';
is get($port, '/verify/on')->{status}, 502, 'with verification it will not, though a connection is idle';
is get($port, '/verify/right')->{status}, 200, 'the right authority will';
is get($port, '/verify/on')->{status}, 502, 'a wrong one still will not';
is get($port, '/verify/name?v=localhost')->{status}, 200, 'the right name will';
is get($port, '/verify/name?v=wrong.test')->{status}, 502, 'a wrong one will not';
is get($port, '/verify/name?v=localhost')->{status}, 200, 'the right one still will';

SKIP: {
    skip 'HTTP/1.1 and HTTP/2 do not share a port here', 1 unless $two_protocols;
    for my $round (1, 2) {
        my $h1 = get($port, '/both/h1');
        is "$h1->{status} $h1->{body}", "200 request=$round protocol=HTTP/1.1\n", "HTTP/1.1, round $round";
        my $grpc = get($port, '/both/grpc', method => 'POST', body => 'x');
        is "$grpc->{status} $grpc->{body}", "200 request=$round protocol=HTTP/2.0\n", "gRPC, round $round";
        next unless $proxy_http2;
        my $h2 = get($port, '/both/h2');
        is "$h2->{status} $h2->{body}", "200 request=$round protocol=HTTP/2.0\n", "HTTP/2 by proxy_pass, round $round";
    }
}

$nginx->stop;
done_testing;
