# Shared memory is full: the upstream's own (zone), and the module's counters (keepalive_zone). With 200 servers behind one
# name, since nginx 1.27.3.
#
# faults: F15.4 "the others are counted together" "a zone that is too small has some of the servers"

use strict;
use warnings;

use Test::More;

use List::Util qw(sum0);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();
plan skip_all => 'this nginx has no "resolve"' unless version_at_least('1.27.3');

my $backend = Keepalive::Backend->start(host => '0.0.0.0');
my @addresses = map { "127.0.1.$_" } 1 .. 200;
my $names = Keepalive::Names->start(@addresses);
my $port = free_port();
my $server = 'server name.test:' . $backend->port . ' resolve max_fails=0';

sub http {
    my ($zone) = @_;
    return <<"END";
resolver 127.0.0.1:@{[ $names->port ]} valid=1h ipv6=off;
$proxy_keepalive
$zone
upstream roomy { zone roomy 1m; $server; keepalive 300; }
upstream tight { zone tight 40k; $server max_conns=1; keepalive 300; queue 10; }
server {
    listen 127.0.0.1:$port;
    location /roomy { proxy_pass http://roomy; }
    location /tight { proxy_pass http://tight; }
    location = /status { keepalive_status; }
}
END
}

my $status = Keepalive::Status->new($port);

for my $zone ('', 'keepalive_zone 4m;') {
    my $title = $zone || 'no keepalive_zone';
    my $nginx = Keepalive::Nginx->new(http => http($zone))->start;
    # What nginx says of servers for which its zone has no room.
    $nginx->allow(qr/ngx_slab_alloc\(\) failed: no memory in upstream zone "tight"/);
    ok wait_for { get($port, '/roomy')->{status} == 200 }, "$title: the name is known";
    my %statuses = map { $_ => 0 } 200;
    $statuses{ get($port, '/roomy')->{status} }++ for 1 .. 450;
    is join(' ', %statuses), '200 450', "$title: more servers than have numbers of their own";
    my @peers = @{ $status->json->{upstreams}{roomy}{peers} };
    my ($other) = grep { $_->{server} eq 'other' } @peers;
    if ($zone) {
        is scalar(@peers), 200, "$title: with more memory each has its own";
    }
    else {
        is scalar(@peers), 65, "$title: 64 have";
        is $other->{idle}, 136, "$title: the others are counted together";
    }
    cmp_ok sum0(map { $_->{reused} } @peers), '>=', 250, "$title: and connections are used again, whoever counts them";

    ok wait_for { get($port, '/tight')->{status} == 200 }, "$title: a zone that is too small has some of the servers";
    is statuses(map { begin($port, "/tight?delay=50&n=$_") } 1 .. 20), '200 x 20', "$title: which are used";
    like $nginx->error_log, qr/no memory in upstream zone "tight"/, "$title: nginx has said so";
    $status->consistent("$title: the numbers agree with each other");
    $backend->drop;
    $nginx->stop;
}

# The upstream's zone is too small for the servers of the configuration.
my $nginx = Keepalive::Nginx->new(http => '');
my $many = join '', map { "server $_:1;" } @addresses;
my ($accepted, $said) = $nginx->verdict("upstream many { zone many 40k; $many keepalive 300; }", 'crit|emerg');
ok !$accepted, 'a zone that is too small for the servers of the configuration is refused' or diag $said;
like $said, qr/no memory in upstream zone "many"/, 'nginx says so';

done_testing;
