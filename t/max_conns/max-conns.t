# `max_conns` in one worker limits the open connections, idle ones included: an idle connection of another identity is closed to
# make room. Needs no `queue`.
#
# faults: F12.2 "never more than max_conns were open"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $crowd = Keepalive::Backend->start(listen => [map { "127.0.1.$_:0" } 1 .. 24]);
my ($port, $secure) = map { free_port() } 1 .. 2;
my ($certificate, $key) = self_signed('localhost');
my ($one, $two) = map { 'server ' . $backend->address($_) } 0, 1;

# Each upstream has three locations, with different local addresses; for `shared` only the location differs.
my @binds = map { "127.0.0.$_" } 11 .. 13;
my %upstreams = (
    two      => "$one max_conns=2; keepalive 8;",
    shared   => "$one max_conns=2; keepalive 8 local;",
    many     => join(' ', map { 'server ' . $crowd->address($_) . ' max_conns=1;' } 0 .. 23) . ' keepalive 64;',
    each     => "$one max_conns=1; $two max_conns=1; keepalive 8 per_server;",
    small    => "$one max_conns=3; keepalive 1;",
    twice    => "$one max_conns=1; $one max_conns=2; keepalive 8;",
    open_end => "$one max_conns=1; $one; keepalive 8;",
    beside   => "$one max_conns=1; $two; keepalive 8;",
    waiting  => "$one max_conns=2; keepalive 8; queue 100 timeout=20s;",
    no_pool  => "$one max_conns=2; queue 100 timeout=20s;",
    single   => "$one max_conns=2; keepalive 8; keepalive_requests 1;",
    large    => "$one max_conns=20; keepalive 20; keepalive_timeout 1h;",
);

sub accepted { join ' ', map { $backend->stats($_)->{accepted} } 0, 1 }
sub open_now { join ' ', map { $backend->stats($_)->{open} } 0, 1 }
sub max_open { join ' ', map { $backend->stats($_)->{max_open} } 0, 1 }

# So many requests at once, the first one ending first: the later a connection was used, the higher its number.
sub at_once { map { $_->finish } map { my $one = begin($port, "$_[0]?delay=" . (60 + 20 * $_)); settle($port); $one } 1 .. $_[1] }

sub serials { join ' ', map { $_->{headers}{'x-connection'} // "status $_->{status}" } @_ }

for my $zone ('', 'zone %s 64k;') {
    my $title = $zone ? 'zone' : 'no zone';
    my $locations = '';
    for my $name (sort keys %upstreams) {
        $locations .= "location /$name/$_ { proxy_pass http://$name; "
            . ($name eq 'shared' ? '' : "proxy_bind $binds[$_ - 1];") . " }\n" for 1 .. 3;
    }
    my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        locations => $locations)->start;
    my $anew = sub { afresh($port, $backend) };

    # Idle connections of another identity are closed, the oldest first, and only as many as needed.
    for my $name (qw(two shared)) {
        $anew->();
        is serials(at_once("/$name/1", 2)), '1 2', "$title, $name: two connections";
        is open_now(), '2 0', "$title, $name: both stay open";
        is serials(get($port, "/$name/2")), '3', "$title, $name: another identity gets a connection of its own";
        is serials(get($port, "/$name/1")), '2', "$title, $name: the younger one was spared";
        is serials(get($port, "/$name/2")), '3', "$title, $name: there is no more to close";
        is serials(get($port, "/$name/3")), '4', "$title, $name: a third identity";
        is serials(get($port, "/$name/2")), '3', "$title, $name: pushed out the one unused for longest";
        is serials(at_once("/$name/1", 2)), '5 6', "$title, $name: two at once push out both others";
        is max_open(), '2 0', "$title, $name: never more than max_conns were open";
        is open_now(), '2 0', "$title, $name: as many still are";
    }

    # Nor more than one for a request that has to wait until the server has closed its side, whatever happens meanwhile.
    $anew->();
    my @idle = map { begin($port, "/large/1?delay=200&linger=500") } 1 .. 20;
    is statuses(@idle), '200 x 20', "$title, large: twenty connections";
    my $another = begin($port, '/large/2');
    is statuses(map { get($port, '/large/1?linger=500') } 1 .. 30), '200 x 30', "$title, large: others go on using them";
    is $another->finish->{status}, 200, "$title, large: one request of another identity";
    is accepted(), '21 0', "$title, large: one connection was opened for it";
    is established($backend->port), 20, "$title, large: and one was closed";

    # A busy connection makes no room: the third request is refused, as by the stock module.
    $anew->();
    my @busy = map { begin($port, "/two/$_?fault=hang&at=start") } 1, 2;
    ok wait_for { open_now() eq '2 0' }, "$title: two requests are under way";
    is get($port, "/two/$_")->{status}, 502, "$title: a third one at the same time is refused ($_)" for 1 .. 3;
    $_->abort for @busy;
    is get($port, '/two/3')->{status}, 200, "$title: and served when they are gone";

    # A pool smaller than the limit does not change it, and one of single-use connections neither.
    for my $case ([small => 3], [single => 2]) {
        my ($name, $limit) = @$case;
        $anew->();
        is statuses(at_once("/$name/" . ($_ % 3 + 1), $limit)), "200 x $limit", "$title, $name: $limit at once, round $_"
            for 1 .. 4;
        is max_open(), "$limit 0", "$title, $name: never more than $limit";
    }

    # Each server has its own limit.
    $anew->();
    is statuses(at_once("/each/$_", 2)), '200 x 2', "$title: one at each server, identity $_" for 1 .. 3, 1 .. 3;
    is max_open(), '1 1', "$title: one connection to each server, never more";

    # All servers are considered, however many there are.
    afresh($port, $crowd);
    is statuses(map { get($port, "/many/$_") } map { ($_) x 24 } 1 .. 3, 1), '200 x 96', "$title: many servers";
    is join(' ', map { $crowd->stats($_)->{max_open} } 0 .. 23), join(' ', (1) x 24), "$title: one connection to each of them";

    # Two lines with the same address: their limits add up.
    $anew->();
    is statuses(at_once("/twice/$_", 3)), '200 x 3', "$title: twice the address, three at once, identity $_" for 1 .. 3, 1 .. 3;
    is max_open(), '3 0', "$title: never more than the sum";
    is statuses(at_once('/twice/1', 4)), '200 x 3, 502 x 1', "$title: a fourth one is refused";

    # Without max_conns there is no limit, whatever stands beside it.
    $anew->();
    is statuses(at_once("/open_end/$_", 3)), '200 x 3', "$title: one line of the address has no limit, identity $_" for 1 .. 3;
    cmp_ok $backend->stats(0)->{open}, '>', 3, "$title: its idle connections stay open";
    $anew->();
    is statuses(at_once("/beside/$_", 6)), '200 x 6', "$title: an unlimited server beside a limited one, identity $_" for 1 .. 3;
    is $backend->stats(0)->{max_open}, 1, "$title: the limit of the one holds";
    cmp_ok $backend->stats(1)->{open}, '>', 3, "$title: the other one keeps its idle connections";

    # With a queue: waiting requests of all identities are served in turn.
    for my $name (qw(waiting no_pool)) {
        $anew->();
        my @requests = map { begin($port, "/$name/" . ($_ % 3 + 1) . '?delay=3') } 1 .. 60;
        is statuses(@requests), '200 x 60', "$title, $name: sixty of three identities are all served";
        is max_open(), '2 0', "$title, $name: never more than two connections";
    }
    ok wait_for { open_now() =~ /^[02] 0$/ }, "$title: nothing but idle connections is left";
    $nginx->stop;
    ok wait_for { open_now() eq '0 0' }, "$title: and these are closed at the end";
}

# TLS: the name that the client sends (SNI) is part of the identity.
SKIP: {
    skip 'nginx has no TLS', 1 unless has_feature('with-http_ssl_module');
    my $nginx = queue_nginx($port, { unused => "$one;" }, http => <<"END", locations => <<'END')->start;
upstream secure { server 127.0.0.1:$secure max_conns=2; keepalive 8; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / { return 200 "\$ssl_server_name \$connection_requests"; }
}
END
    location ~ ^/sni/(.*) { proxy_pass https://secure; proxy_ssl_server_name on; proxy_ssl_name $1; }
END
    for my $round (1 .. 3) {
        is get($port, "/sni/name$_")->{body}, "name$_ 1", "TLS: a connection for each name ($_)" for 1 .. 4;
        is get($port, '/sni/name4')->{body}, 'name4 2', 'TLS: which is used again';
        ok wait_for { established($secure) == 2 }, 'TLS: two are open';
        is get($port, '/sni/name3')->{body}, 'name3 2', 'TLS: those of the last two names';
    }
    $nginx->stop;
}

done_testing;
