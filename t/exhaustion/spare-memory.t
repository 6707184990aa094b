# The master makes some structures with calls that cannot report a failure, so it makes them only if there is spare memory.
# Without it nothing is counted, and requests are served.
#
# faults: F15.3 "the log tells" "requests are served"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $library = work_dir() . '/no-spare.so';
plan skip_all => 'no C compiler' if system("cc -Wall -shared -fPIC -o $library t/lib/no-spare.c -ldl >$library.log 2>&1") != 0;
plan skip_all => 'the sanitizers have a malloc() of their own' if $ENV{TEST_NGINX_SANITIZED};
my @within = ('env', "LD_PRELOAD=$library");

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(within => \@within, http => <<"END")->start;
upstream backend { server @{[ $backend->address ]}; keepalive 8; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
    location = /status { keepalive_status; }
}
END
$nginx->allow(qr/there is no memory to count in|no memory to learn when servers close/);

like $nginx->error_log, qr/\[crit\].* keepalive: there is no memory to count in \(12: Cannot allocate memory\)/, 'the log tells';
is statuses(map { get($port, '/') } 1 .. 3), '200 x 3', 'requests are served';
is $backend->stats->{accepted}, 1, 'by one connection';
is get($port, '/status')->{status}, 503, 'there is nothing to show';

$nginx->stop;
done_testing;
