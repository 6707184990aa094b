# `server NAME resolve`: when an address is removed from the upstream, the idle connections to it are closed at once.
#
# faults: F17.3 "the connection to the backup server that left is closed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no resolve in upstreams before 1.27.3' unless version_at_least('1.27.3');

my $names = Keepalive::Names->start('127.0.0.1', '127.0.0.2');
my $port = free_port();
my $backend_port = free_port();
my @backends = map { Keepalive::Backend->start(listen => ["127.0.0.$_:$backend_port"]) } 1 .. 3;

my $spare_port = free_port();
my @spares = map { Keepalive::Backend->start(listen => ["127.0.0.$_:$spare_port"]) } 1 .. 2;

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;
$proxy_keepalive
upstream u {
    zone u 64k;
    server servers.test:$backend_port resolve;
    keepalive 16;
    keepalive_timeout 600s;
}
upstream with_backup {
    zone with_backup 64k;
    server 127.0.0.9:$spare_port down;
    server servers.test:$spare_port resolve backup;
    keepalive 16;
    keepalive_timeout 600s;
}
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://u; proxy_next_upstream_tries 1; }
    location /backup { proxy_pass http://with_backup; proxy_next_upstream_tries 1; }
}
END

sub ask { scalar grep { get($port, '/')->{status} == 200 } 1 .. $_[0] }
sub open_connections { join ' ', map { $_->stats->{open} } @backends }

ok wait_for { get($port, '/')->{status} == 200 }, 'the name is resolved';
is ask(4), 4, 'both servers answer';
is open_connections(), '1 1 0', 'one idle connection to each';

$names->now_at('127.0.0.2', '127.0.0.3');
ok wait_for { open_connections() =~ /^0 / }, 'the connection to the server that left is closed';
is open_connections() =~ /^0 1 / && 1, 1, 'the one that stays keeps its connection';
is ask(4), 4, 'the new server answers too';
is open_connections(), '0 1 1', 'and its connection is kept';

# A request that is under way while its server leaves: the connection comes back afterwards, and must not stay.
my @slow = map { begin($port, '/?delay=3000') } 1 .. 2;
$names->now_at('127.0.0.3');
$_->finish for @slow;
ok wait_for { open_connections() =~ /^0 0 / }, 'a connection that was in use when its server left does not stay either';

$names->now_at('127.0.0.1');
ok wait_for { open_connections() =~ /0$/ && get($port, '/')->{status} == 200 && $backends[0]->stats->{open} == 1 },
    'an address can come back';

# Backup servers are a list of their own.
$names->now_at('127.0.0.1', '127.0.0.2');
ok wait_for { get($port, '/backup')->{status} == 200 && $spares[0]->stats->{open} && $spares[1]->stats->{open} },
    'both backup servers have a connection';
$names->now_at('127.0.0.2');
ok wait_for { !$spares[0]->stats->{open} }, 'the connection to the backup server that left is closed';
is $spares[1]->stats->{open}, 1, 'that to the other one stays';

$nginx->stop;
done_testing;
