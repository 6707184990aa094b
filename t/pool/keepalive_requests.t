# `keepalive_requests number`: a connection is closed after this many requests.
#
# faults: F11.1 "no request per connection means none is kept" "one request per connection" "two requests per connection"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: two requests per connection
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_requests 2;
--- request eval
[("GET /") x 5, "GET /pause?delay=20", "GET /control/stats"]
--- response_body_like eval
["connection 1 request 1", "connection 1 request 2", "connection 2 request 1", "connection 2 request 2",
 "connection 3 request 1", "", '"accepted":3,"open":1']


=== TEST 2: one request per connection
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_requests 1;
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 3: no request per connection means none is kept
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_requests 0;
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 4: it may stand before "keepalive"
--- upstream
keepalive_requests 2;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
[("GET /") x 3]
--- response_body eval
main::answered_by('1:1', '1:2', '2:1')


=== TEST 5: each upstream has its own limit
--- http_config
upstream one {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    keepalive 4;
    keepalive_requests 1;
}
upstream two {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
    keepalive 4;
    keepalive_requests 3;
}
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /one { proxy_pass http://one; }
location /two { proxy_pass http://two; }
--- request eval
[("GET /one") x 2, ("GET /two") x 4]
--- response_body eval
main::answered_by('1:1', '2:1', '1:1', '1:2', '1:3', '2:1')
