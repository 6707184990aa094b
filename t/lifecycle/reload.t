# Reload under load: no request fails, old workers exit and close their idle connections, new workers have pools of their own.
#
# faults: F14.1 "requests failed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

sub http {
    my ($keepalive) = @_;
    return <<"END";
upstream backend { server @{[ $backend->address ]}; $keepalive keepalive_timeout 1h; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
}

my $nginx = Keepalive::Nginx->new(workers => 2, http => http('keepalive 8;'))->start;
my $descriptors = $nginx->descriptors($nginx->pid);

my $load = Keepalive::Load->start($port, clients => 4, request => sub { $_[0] % 3 ? '/' : '/?delay=10' });
ok $load->wait_for_more(50), 'the load has begun';
my @old;
for my $keepalive ('keepalive 8;', 'keepalive 1;', 'keepalive 64;', 'keepalive 8; keepalive_requests 3;', 'keepalive 4;') {
    $nginx->configure(http => http($keepalive));
    push @old, $nginx->reload;
    ok $load->wait_for_more(50), "the load goes on with: $keepalive";
}
my ($answers, @failures) = $load->stop;
is_deeply \@failures, [], "none of $answers requests failed";
ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'all old workers are gone';
ok wait_for { $backend->stats->{open} <= 8 }, 'only the pools of the new workers are left';
ok wait_for { $nginx->descriptors($nginx->pid) == $descriptors }, 'the master has as many descriptors as before';

# The pool of the new configuration is in force: at most one request per connection.
$nginx->configure(http => http('keepalive 8; keepalive_requests 1;'));
@old = $nginx->reload;
ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the workers before it are gone';
$backend->reset;
get($port, '/') for 1 .. 10;
is $backend->stats->{accepted}, 10, 'the new configuration is in force';

# Old workers that are still busy when the next reload comes.
my @busy = map { begin($port, '/?delay=800') } 1 .. 4;
ok wait_for { $backend->stats->{requests} == 14 }, 'four requests are under way';
@old = map { $nginx->reload } 1 .. 2;
is join(' ', map { $_->finish->{status} } @busy), '200 200 200 200', 'they survive two reloads';
ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the workers of both generations are gone';

$nginx->stop;
done_testing;
