# http2: a thousand requests at once, each authorised by a subrequest, over one connection to each server, plain and with TLS; the
# number of streams is what the server allows at the time, and not more than `streams`.
#
# faults: F13.6 "a thousand at once"
# faults: F22.2 "the server lowers its limit" "none is allowed at first"
# faults: F22.7 "each with its own answer"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my %site = (plain => Keepalive::Streams->start(connection => 'streams=128'));
my %auth = (plain => Keepalive::Streams->start(connection => 'streams=128'));
if (has_feature('with-http_ssl_module')) {
    $_->{tls} = Keepalive::Streams->start(connection => 'streams=128', tls => 1) for \%site, \%auth;
}
my @kinds = sort keys %auth;
my $port = free_port();

my ($upstreams, $locations) = ('', '');
for my $kind (@kinds) {
    my $scheme = $kind eq 'tls' ? 'https' : 'http';
    my ($site, $auth) = map { $_->{$kind}->address } \%site, \%auth;
    $upstreams .= "upstream site_$kind { server $site; keepalive 4; http2 on streams=1000 connections=1; }\n"
        . "upstream auth_$kind { server $auth; keepalive 4; http2 on streams=1000 connections=1; }\n"
        . "upstream few_$kind { server $auth; keepalive 4; http2 on streams=20 connections=1; }\n"
        . "upstream more_$kind { server $auth; keepalive 4; http2 on streams=20 connections=3; }\n";
    $locations .= <<"END";
    location /$kind/ {
        # A subrequest has no arguments of its own.
        set \$number \$arg_n;
        set \$delay \$arg_delay;
        auth_request /auth_$kind;
        proxy_pass $scheme://site_$kind/?body=\$number&id=\$number;
    }
    location /auth_$kind {
        internal;
        proxy_pass $scheme://auth_$kind/?status=204&delay=\$delay&id=\$number;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
    location /few_$kind { proxy_pass $scheme://few_$kind; }
    location /more_$kind { proxy_pass $scheme://more_$kind; }
END
}
my $nginx = Keepalive::Nginx->new(connections => 10_000, main => 'worker_rlimit_nofile 10000;', http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 60s;
$upstreams
server {
    listen 127.0.0.1:$port backlog=2048;
    location = /settled { return 200; }
    $locations
}
END

# So many requests at once; `meanwhile` runs when they are sent. Each must have its own body.
sub at_once {
    my ($number, $path, $meanwhile) = @_;
    my $path_of = ref $path ? $path : sub { $path };
    my @requests = map { begin($port, $path_of->($_) . "&n=$_", timeout => 60) } 1 .. $number;
    $meanwhile->() if $meanwhile;
    my @answers = map { $_->finish } @requests;
    my @foreign = grep { $answers[$_ - 1]{status} == 200 && $answers[$_ - 1]{body} ne $_ } 1 .. $number;
    return (statuses(@answers), scalar @foreign);
}

for my $kind (@kinds) {
    my ($site, $auth) = ($site{$kind}, $auth{$kind});
    # The connections of before are closed, and the new ones begin with another limit.
    my $renew = sub {
        $_->drop for $site, $auth;
        ok wait_for { !grep { $_->stats->{open} } $site, $auth }, "$kind: the connections are closed";
        settle($port);
        $_->reset for $site, $auth;
        $auth->behave($_[0]);
    };
    my $well = sub {
        my ($title, $statuses, $foreign, $most) = @_;
        is $statuses, '200 x 1000', "$kind, $title: all are answered";
        is $foreign, 0, "$kind, $title: each with its own answer";
        is $auth->stats->{ids}, 1000, "$kind, $title: each was authorised";
        is $auth->stats->{ids_again}, 0, "$kind, $title: once";
        is $auth->stats->{accepted}, 1, "$kind, $title: over one connection";
        is $site->stats->{accepted}, 1, "$kind, $title: and one to the site";
        # Before the server has said anything, a few are opened.
        $most = 10 if $most < 10;
        cmp_ok $auth->most_streams, '<=', $most, "$kind, $title: with $most streams at most";
        is $auth->http2->{open}, 0, "$kind, $title: and none afterwards";
        $_->rules_are_kept("$kind, $title") for $site, $auth;
    };

    my %delay = (128 => 20, 1 => 0, 1000 => 2000);
    for my $limit (128, 1, 1000) {
        $renew->("streams=$limit");
        $well->("a thousand at once, streams=$limit", at_once(1000, "/$kind/?delay=$delay{$limit}"), $limit);
    }
    cmp_ok $auth->most_streams, '>=', 900, "$kind: all at a time, where the server allows it";

    # While they are on their way: the first ones take long.
    $renew->('streams=128');
    $well->('the server lowers its limit', at_once(1000, sub { "/$kind/?delay=" . ($_[0] <= 128 ? 2000 : 1) }, sub {
        ok wait_for { $auth->http2->{open} >= 100 }, "$kind: many streams are open";
        $auth->settings('streams=10');
        ok wait_for { $auth->http2->{open} <= 10 }, "$kind: they end";
        $auth->settings('streams=1');
        sleep 0.2;
        $auth->settings('streams=60');
    }), 128);

    # Those that wait need no other one to end.
    $renew->('streams=1');
    my @waiting = map { begin($port, "/$kind/?delay=1500&n=$_") } 1 .. 30;
    sleep 0.3;
    $auth->settings('streams=100');
    ok wait_for { $auth->http2->{open} == 30 }, "$kind: the server raises its limit: those that wait go on at once";
    is statuses(@waiting), '200 x 30', "$kind, the server raises its limit: all are answered";

    # No stream at all for a while: all must wait, and then go on.
    $renew->('streams=0');
    $well->('none is allowed at first', at_once(1000, "/$kind/?delay=1", sub {
        sleep 0.3;
        cmp_ok $auth->http2->{streams}, '<=', 10, "$kind: but for the first ones none was opened";
        $auth->settings('streams=100');
    }), 100);

    # SETTINGS come late.
    $renew->('streams=5&late=300');
    $well->('SETTINGS come late', at_once(1000, "/$kind/?delay=1"), 1000);

    # The directive's own limits.
    for my $wanted (['few', 20, 1], ['more', 60, 3]) {
        my ($name, $streams, $connections) = @$wanted;
        $renew->('streams=128');
        my ($statuses) = at_once(200, "/${name}_$kind?delay=300");
        is $statuses, '200 x 200', "$kind, $name: all are answered";
        is $auth->stats->{accepted}, $connections, "$kind, $name: connections as the directive says";
        is $auth->most_streams, 20, "$kind, $name: streams as the directive says";
        is $auth->http2->{max_open}, $streams, "$kind, $name: on all of them together";
    }
    my @open = map { $_->{max_open} } $auth->carriers;
    is "@open", '20 20 20', "$kind: the streams are spread";
}

# One after the other, and a few at a time: what was counted is given back each time.
{
    my $auth = $auth{plain};
    for my $round (1 .. 20) {
        my ($statuses) = at_once(50, '/plain/?delay=1');
        is $statuses, '200 x 50', "round $round" if $statuses ne '200 x 50' || $round == 20;
    }
    is $auth->http2->{open}, 0, 'no stream is left';
}

$nginx->stop;
done_testing;
