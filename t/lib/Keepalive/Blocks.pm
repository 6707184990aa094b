package Keepalive::Blocks;

# For files written in blocks (Test::Nginx): the scripted backend, and sections that save repetition.
#
# - `--- upstream`: the inside of `upstream backend {}`; the block may have an `--- http_config` too.
# - Without `--- config`, all requests are proxied to that upstream by HTTP/1.1.
# - /pause?delay=N takes N ms; /control/COMMAND goes to the backend's control listener (e.g. /control/stats).
# - The counters start at zero in each block: its first connection to each listener of the backend is number 1.
# - No block may log anything of level crit, alert or emerg, unless it has its own `--- no_error_log`.
# - In configurations, $TEST_NGINX_BACKEND_PORT, .._PORT2 and .._PORT3 are listeners of the backend, and
#   $TEST_NGINX_PROXY_KEEPALIVE is `$proxy_keepalive` of Keepalive::Setup.

use strict;
use warnings;

use Exporter qw(import);

use Keepalive::Setup;
use Keepalive::Backend;
use Test::Nginx::Socket ();

our @EXPORT = qw(backend answered_by);

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 4]);

$ENV{TEST_NGINX_BACKEND_PORT}  = $backend->port(0);
$ENV{TEST_NGINX_BACKEND_PORT2} = $backend->port(1);
$ENV{TEST_NGINX_BACKEND_PORT3} = $backend->port(2);
$ENV{TEST_NGINX_PAUSE_PORT}    = $backend->port(3);
$ENV{TEST_NGINX_CONTROL_PORT}  = $backend->control_port;
$ENV{TEST_NGINX_PROXY_KEEPALIVE} = $proxy_keepalive;

my $proxy_all = <<'END';
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
}
END

my $helpers = <<'END';
location = /pause {
    proxy_pass http://127.0.0.1:$TEST_NGINX_PAUSE_PORT;
}
location /control/ {
    proxy_pass http://127.0.0.1:$TEST_NGINX_CONTROL_PORT/;
}
END

Test::Nginx::Socket::no_root_location();
Test::Nginx::Socket::no_shuffle();
Test::Nginx::Socket::log_level('info');
Test::Nginx::Socket::workers(1);

Test::Nginx::Socket::add_block_preprocessor(sub {
    my ($block) = @_;
    $backend->reset;
    if (defined(my $upstream = $block->upstream)) {
        my $http = $block->http_config // '';
        $block->set_value('http_config', "upstream backend {\n$upstream\n}\n$http");
    }
    $block->set_value('config', ($block->config // $proxy_all) . $helpers);
    $block->set_value('no_error_log', [qr/\[(?:crit|alert|emerg)\]/]) unless defined $block->no_error_log;
});

Test::Nginx::Socket::add_cleanup_handler(sub { $backend->stop });

# The backend, for blocks that command it in Perl.
sub backend { $backend }

# The bodies of the answers with these "connection:request" numbers: answered_by('1:1', '1:2').
sub answered_by {
    return [map { my ($connection, $request) = split /:/; "connection $connection request $request\n" } @_];
}

1;
