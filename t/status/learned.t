# keepalive_status: what was learned of a server (keepalive_hint learn), and the connections that are closed for it.
#
# about: status

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Prometheus;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

# A server that closes idle connections, one that closes after six requests, and one that ends a response by closing.
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my ($idle, $few, $other) = map { $backend->address($_) } 0 .. 2;
my $port = free_port();

sub http {
    my ($more) = @_;
    return <<"END";
$proxy_keepalive
upstream idle { server $idle; server $other backup; keepalive 4; }
upstream twin { server $idle; keepalive 4 per_server; keepalive_hint learn margin=10ms; }
upstream few { server $few; keepalive 4; }
upstream ends { server $other; keepalive 4; }
upstream hint { server $idle; keepalive 4; keepalive_hint on; }
upstream none { server $idle; keepalive 4; keepalive_hint off; }
upstream pool { server $idle max_conns=8; keepalive 0; queue 1; }
$more
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location /idle { proxy_pass http://idle; }
    location /ends { proxy_pass http://ends; }
    location /few { proxy_pass http://few; }
}
END
}

my $nginx = Keepalive::Nginx->new(http => http(''))->start;
my $status = Keepalive::Status->new($port);

sub learned { my ($upstream, $peer) = @_; return $status->json->{upstreams}{$upstream}{peers}[$peer || 0]{learned} }

# What is not known is null, and has no metrics.
my %nothing = map { $_ => undef } qw(idle_timeout idle_timeout_closes requests requests_closes);
sub is_nothing {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($upstream, $peer, $title) = @_;
    return is_deeply learned($upstream, $peer), \%nothing, $title;
}
is_nothing($_, 0, "$_: nothing at the beginning") for qw(idle twin few hint none pool);
unlike $status->text('prometheus'), qr/^nginx_upstream_keepalive_learned/m, 'and no metric';

# The idle time. A machine that is busy may see a close late.
$status->teach(idle => '/idle');
my $known = learned('idle');
cmp_ok $known->{idle_timeout}, '>=', 0.199, 'the idle time is not too short' or diag explain $known;
cmp_ok $known->{idle_timeout}, '<', 0.25, 'nor too long';
is $known->{idle_timeout_closes}, 4, 'four closes say so';
is $known->{$_}, undef, "the server closes after no number of requests: $_" for qw(requests requests_closes);
is_deeply learned('twin'), $known, 'another upstream with this server knows it too';
is_nothing('idle', 1, 'of the other server of the upstream nothing is known');
is_nothing($_, 0, "$_: nothing, because it does not learn") for qw(hint none pool);
is $status->json->{upstreams}{idle}{closed}{learned}, 0, 'no connection was closed for that yet';

# Now nginx closes first.
$status->apply_lesson(idle => '/idle');
ok wait_for { !$backend->stats->{open} }, 'no connection stays open';
my $closed = $status->json->{upstreams}{idle}{closed}{learned};
cmp_ok $closed, '>=', 1, 'connections are closed because of it';
is $status->metrics->{ Keepalive::Status::sample('nginx_upstream_keepalive_closed_total', upstream => 'idle', server => $idle, reason => 'learned') },
    $closed, 'and counted, also for Prometheus';

# The number of requests.
for (1 .. 60) {
    last if defined learned('few')->{requests};
    get($port, '/few?fault=close&from=6');
}
$known = learned('few');
is_deeply $known, { %nothing, requests => 6, requests_closes => 4 }, 'the number of requests' or diag explain $known;
ok $status->text('json') =~ /"learned":\{"idle_timeout":null,"idle_timeout_closes":null,"requests":6,"requests_closes":4\}/,
    'as numbers, and null where nothing is known';

# A server that ends its responses by closing has no such number.
get($port, $_) for (('/ends') x 5, '/ends?framing=eof') x 8;
is_nothing('ends', 0, 'from responses that end with their connection nothing is learned');

# The metrics have the same values, and no others.
wait_for { !$backend->stats->{open} };
$status->consistent('both formats agree');
my $metrics = $status->metrics;
my @of = map { /^nginx_upstream_keepalive_learned_(\w+)\{server="(.*)",upstream="(\w+)"\}$/ ? "$3 $1" : () } sort keys %$metrics;
is_deeply [sort @of], ['few requests', 'few requests_closes', map { ("$_ idle_timeout_closes", "$_ idle_timeout_seconds") } qw(idle twin)],
    'metrics of servers of which something is known';
is join("\n", wrong_in($status->text('prometheus'))), '', 'and nothing is wrong with them';

# A reload keeps it.
my %before = map { $_ => learned($_) } qw(idle few);
$nginx->configure(http => http('upstream later { server ' . $few . '; keepalive 1; }'));
my @old = $nginx->reload;
ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'a reload';
is_deeply { map { $_ => learned($_) } qw(idle few) }, \%before, 'what was learned is still known';
is_deeply learned('later'), $before{few}, 'also in an upstream that is new';
$nginx->stop;

# A server that is known by its name only.
SKIP: {
    skip 'nginx has no resolve in upstreams before 1.27.3', 1 unless version_at_least('1.27.3');
    my $names = Keepalive::Names->start('127.0.0.1');
    my $by_name = Keepalive::Nginx->new(http => <<"END")->start;
resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;
$proxy_keepalive
upstream named { zone named 128k; server servers.test:@{[ $backend->port ]} resolve; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location / { proxy_pass http://named; }
}
END
    ok wait_for { get($port, '/?idle=10')->{status} == 200 }, 'resolve: the name is resolved';
    $status->teach(named => '/');
    cmp_ok learned('named')->{idle_timeout} // 0, '>=', 0.15, 'resolve: the idle time is shown at the address';
    $status->consistent('resolve: both formats agree');
    $by_name->stop;
}

done_testing;
