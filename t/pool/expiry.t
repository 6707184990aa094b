# When connections expire if nothing is learned of their servers: the timers of the pool, and of single connections.
#
# faults: F11.2 "the timeouts of the request do not rule on an idle connection"
# faults: F11.2 "connections with an announced timeout, and without, expire in their own time"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

needs_module();

run_tests();

__DATA__

=== TEST 1: the timeouts of the request do not rule on an idle connection
nginx leaves the timer of a request set if the answer has no body.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 900ms;
keepalive_hint off;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /short { proxy_pass http://backend; proxy_read_timeout 250ms; proxy_send_timeout 250ms; }
location /long { proxy_pass http://backend; proxy_read_timeout 10s; proxy_send_timeout 10s; }
--- request eval
["GET /short?status=204", "GET /pause?delay=600", "GET /short?status=204", "GET /pause?delay=600", "GET /long?status=204",
 "GET /pause?delay=600", "GET /control/stats", "GET /pause?delay=700", "GET /control/stats", "GET /long"]
--- error_code eval
[204, 200, 204, 200, 204, 200, 200, 200, 200, 200]
--- response_body_like eval
["", "", "", "", "", "", '"accepted":1,"open":1', "", '"accepted":1,"open":0', "connection 2 request 1"]


=== TEST 2: connections with an announced timeout, and without, expire in their own time
The connection has an announced timeout after one request, and none after the next one.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 2500ms;
keepalive_hint on margin=500ms;
--- request eval
["GET /", "GET /?header=Keep-Alive:timeout=1", "GET /", "GET /pause?delay=1200", "GET /control/stats", "GET /?header=Keep-Alive:timeout=1",
 "GET /pause?delay=900", "GET /control/stats", "GET /"]
--- response_body_like eval
["1 request 1", "1 request 2", "1 request 3", "", '"accepted":1,"open":1', "1 request 4",
 "", '"accepted":1,"open":0', "2 request 1"]
