# Every balancer: its connections are used again, and its own counts stay right, whichever side closes a connection.
#
# faults: F17.3 "over one connection per server" "the backup server answers for a dead one"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my ($port, $closing) = map { free_port() } 1 .. 2;

# An nginx that has only the upstreams given, and a location for each.
sub balanced_nginx {
    my ($main, %upstreams) = @_;
    my $blocks = join '', map { "upstream $_ {\n$upstreams{$_}\n}\n" } sort keys %upstreams;
    my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %upstreams;
    return Keepalive::Nginx->new(main => $main, http => <<"END");
$proxy_keepalive
$blocks
server { listen 127.0.0.1:$closing; keepalive_timeout 0; location / { return 200 closing; } }
server { listen 127.0.0.1:$port; $locations }
END
}

my $servers = join '', map { "server @{[ $backend->address($_) ]};\n" } 0, 1;
my ($one, $two) = map { $backend->address($_) } 0, 1;

my %balancers = (
    round_robin       => '',
    weights           => 'weighted',
    least_conn        => 'least_conn;',
    ip_hash           => 'ip_hash;',
    hash              => 'hash $arg_n;',
    hash_consistent   => 'hash $arg_n consistent;',
    random            => 'random;',
    random_two        => 'random two;',
    random_least_conn => 'random two least_conn;',
    sticky            => 'sticky cookie route;',
    least_time        => 'least_time header;',
);

for my $name (sort keys %balancers) {
    for my $zone ('', 'zone backend 64k;') {
        my $method = $balancers{$name};
        my $list = $method eq 'weighted' ? "server $one weight=3;\nserver $two;\n" : $servers;
        my $title = $name . ($zone && ' with zone');
        my $nginx = balanced_nginx('', backend => $list . ($method eq 'weighted' ? '' : $method) . "$zone keepalive 8;");
        my ($accepted, $said) = $nginx->test;
        if (!$accepted && $said =~ /unknown directive "(?:sticky|least_time)"/) {
            SKIP: { skip "this nginx has no $name", 1 }
            next;
        }
        unlike $said, qr/\[warn\]/, "$title: no warning";
        $nginx->start;

        $backend->reset;
        my @bad = grep { $_->{status} != 200 } map { get($port, "/backend?n=$_") } 1 .. 30;
        is @bad, 0, "$title: 30 requests are answered";
        my @stats = map { $backend->stats($_) } 0, 1;
        my @used = grep { $_->{requests} } @stats;
        is join(' ', map { $_->{accepted} } @used), join(' ', (1) x @used), "$title: over one connection per server";
        is $stats[0]{requests} + $stats[1]{requests}, 30, "$title: none was repeated";
        $nginx->stop;
    }
}

# Counts that must not drift: each server's number of connections under way returns to zero after every request,
# both when the connection goes into the pool and when it is closed.
for my $zone ('', 'zone %s 64k;') {
    my $in = sub { my ($name) = @_; $zone ? sprintf($zone, $name) : '' };
    my $title = $zone ? 'with zone' : 'without zone';
    my $nginx = balanced_nginx('',
        limited => "server $one max_conns=1; keepalive 4; " . $in->('limited'),
        two_limited => "server $one max_conns=1; server $two max_conns=1; keepalive 4; " . $in->('two_limited'),
        no_pool => "server $one max_conns=1; keepalive 1; keepalive_requests 1; " . $in->('no_pool'),
        spread  => "least_conn; server $one; server 127.0.0.1:$closing; keepalive 4; " . $in->('spread'),
        backup  => "server 127.0.0.1:1 max_fails=0; server $one backup; keepalive 4; " . $in->('backup'),
        down    => "server $one down; server $two; keepalive 4; " . $in->('down'),
    );
    $nginx->start;

    for my $name (qw(limited no_pool)) {
        my @bad = grep { $_->{status} != 200 } map { get($port, "/$name") } 1 .. 20;
        is @bad, 0, "$title: max_conns=1 allows any number of requests in turn ($name)";
    }

    my $held = begin($port, '/limited?delay=700');
    ok wait_for { $backend->stats(0)->{open} }, "$title: one request is under way";
    select undef, undef, undef, 0.05;
    is get($port, '/limited')->{status}, 502, "$title: max_conns=1 still refuses a second one at the same time";
    is $held->finish->{status}, 200, "$title: the first one is answered";
    is get($port, '/limited')->{status}, 200, "$title: and the place is free again";

    my @both = map { begin($port, '/two_limited?delay=100') } 1 .. 2;
    is join(' ', map { $_->finish->{status} } @both), '200 200', "$title: two servers take one request each";

    my %seen;
    $seen{ get($port, '/spread')->{body} eq 'closing' ? 'closing' : 'pooled' }++ for 1 .. 20;
    is_deeply \%seen, { closing => 10, pooled => 10 }, "$title: least_conn is not misled by pooled connections";

    $backend->reset;
    my @bad = grep { $_->{status} != 200 } map { get($port, '/backup') } 1 .. 5;
    is @bad, 0, "$title: the backup server answers for a dead one";
    is $backend->stats(0)->{accepted}, 1, "$title: over one connection";

    $backend->reset;
    get($port, '/down') for 1 .. 4;
    is join(' ', map { $backend->stats($_)->{accepted} } 0, 1), '0 1', "$title: a server that is down is not asked";
    $nginx->stop;
}

# A third-party balancer, if Debian's package is installed.
SKIP: {
    my $fair = has_module_file('ngx_http_upstream_fair_module.so') or skip 'no third-party balancer here', 1;
    my $nginx = balanced_nginx("load_module $fair;", backend => "$servers fair; keepalive 8;");
    my ($accepted, $said) = $nginx->test;
    ok $accepted, 'fair: the configuration is accepted' or diag $said;
    $nginx->start;
    $backend->reset;
    my @bad = grep { $_->{status} != 200 } map { get($port, "/backend?n=$_") } 1 .. 30;
    is @bad, 0, 'fair: 30 requests are answered';
    cmp_ok $backend->stats(0)->{accepted} + $backend->stats(1)->{accepted}, '<=', 2, 'fair: over one connection per server';
    $nginx->stop;
}

done_testing;
