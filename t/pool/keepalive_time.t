# `keepalive_time time`: a connection older than this is not stored again.
#
# faults: F11.2 "the time counts from the connection, not from its last use"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: a connection past its time serves the request it was found by, and no more
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_time 700ms;
--- request eval
["GET /", "GET /pause?delay=1000", "GET /", "GET /", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", "connection 1 request 2", "connection 2 request 1", "connection 2 request 2"]


=== TEST 2: the time counts from the connection, not from its last use
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_time 1200ms;
--- request eval
["GET /", "GET /?delay=800", "GET /?delay=800", "GET /"]
--- response_body_like eval
["connection 1 request 1", "connection 1 request 2", "connection 1 request 3", "connection 2 request 1"]
