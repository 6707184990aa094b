# The defaults of missing directives: 1000 requests, 60 seconds idle, and since nginx 1.29.7 32 connections.
#
# faults: F11.2 "an idle connection gets 60 seconds"

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
my $server = 'server ' . $backend->address . ';';

# keepalive_requests: request 1001 needs a second connection.
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream backend { $server keepalive 4; }
server { listen 127.0.0.1:$port; location / { proxy_pass http://backend; } }
END
my ($answers, @failures) = Keepalive::Load->start($port, clients => 1, requests => 1000)->finish;
is_deeply \@failures, [], "none of $answers requests failed";
is $backend->stats->{accepted}, 1, 'a thousand requests go over one connection';
get($port, '/');
is $backend->stats->{accepted}, 2, 'the next one does not';
$nginx->stop;

# keepalive_timeout: the debug log shows when nginx would wake up next.
SKIP: {
    skip 'nginx was built without --with-debug', 1 unless has_feature('with-debug');
    $nginx = Keepalive::Nginx->new(log_level => 'debug', http => <<"END")->start;
$proxy_keepalive
proxy_connect_timeout 59s;
proxy_send_timeout 59s;
proxy_read_timeout 59s;
client_header_timeout 59s;
lingering_close off;
keepalive_timeout 59s;
upstream backend { $server keepalive 4; }
server { listen 127.0.0.1:$port; location / { proxy_pass http://backend; } }
END
    get($port, '/');
    # The only timer left is the idle connection's; all other timeouts are set to 59 seconds before.
    ok wait_for { $nginx->error_log =~ /saving connection.*epoll timer: (?:60000|599\d\d)\n/s },
        'an idle connection gets 60 seconds';
    $nginx->stop;
}

# keepalive: none before 1.29.7, then 32.
$backend->reset;
$nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream backend { $server }
server { listen 127.0.0.1:$port; location / { proxy_pass http://backend; } }
END
$_->finish for map { begin($port, '/?delay=300') } 1 .. 40;
my $kept = default_is_on() ? 32 : 0;
ok wait_for { $backend->stats->{open} == $kept }, "of 40 connections $kept are kept" or diag $backend->stats->{open};
$nginx->stop;

done_testing;
