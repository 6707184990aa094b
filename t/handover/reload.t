# A reload: the new workers take over the idle connections of the old ones.
#
# about: handover

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();

sub http {
    my ($directives, %options) = @_;
    my $name = $options{name} // 'backend';
    return <<"END";
upstream $name { server @{[ $backend->address ]}; $directives keepalive_timeout 1h; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://$name; $proxy_keepalive }
}
END
}

my $nginx = Keepalive::Nginx->new(workers => 1, log_level => $ENV{DBG} // 'warn', http => http('keepalive 8;'))->start;

sub eight { return map { $_->finish->{status} } map { begin($port, '/?delay=50') } 1 .. 8 }
sub idle { return established($backend->port, @_) }

# Waits until the workers of the former configuration have ended.
sub reload {
    my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the old workers are gone';
}

is join(' ', eight()), join(' ', (200) x 8), 'eight at once';
is $backend->stats->{accepted}, 8, 'eight connections';
for my $round (1 .. 3) {
    reload();
    is idle($nginx->workers), 8, "reload $round: the new worker has them";
    is join(' ', eight()), join(' ', (200) x 8), "reload $round: eight at once";
    is $backend->stats->{accepted}, 8, "reload $round: no new connection";
}
$nginx->stop;
done_testing;
