# `keepalive` before or after the balancer: no difference with our module, nor since nginx 1.29.7.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'stock before 1.29.7 depends on the order' unless is_ours() || version_at_least('1.29.7');

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $server = 'server ' . $backend->address . ';';

my @balancers = ('least_conn;', 'ip_hash;', 'hash $arg_n;', 'hash $arg_n consistent;', 'random;', 'random two;',
    'zone backend 64k;', 'sticky cookie route;', 'least_time header;');
my $fair = has_module_file('ngx_http_upstream_fair_module.so');
push @balancers, 'fair;' if $fair;

for my $balancer (@balancers) {
    for my $order ("$server $balancer keepalive 4;", "$server keepalive 4; $balancer", "keepalive 4; $balancer $server") {
        my $nginx = Keepalive::Nginx->new(main => $fair ? "load_module $fair;" : '', http => <<"END");
upstream backend { $order }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
        my $title = $order =~ s/\Q$server\E/server;/r;
        my ($accepted, $said) = $nginx->test;
        if (!$accepted && $said =~ /unknown directive "(?:sticky|least_time)"/) {
            SKIP: { skip "this nginx has no $balancer", 1 }
            last;
        }
        ok $accepted, "$title is accepted";
        unlike $said, qr/\[warn\]/, "$title: no warning";
        $nginx->start;
        $backend->reset;
        my @bad = grep { $_->{status} != 200 } map { get($port, '/') } 1 .. 3;
        is @bad, 0, "$title: requests are answered";
        is $backend->stats->{accepted}, 1, "$title: over one connection";
        $nginx->stop;
    }
}

done_testing;
