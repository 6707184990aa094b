# `keepalive_timeout timeout`: how long a connection may stay idle.
#
# faults: F11.2 "an idle connection is closed after the timeout, and not before"
# faults: F16.1 "proxy_read_timeout rules again on a connection from the pool"
# faults: F16.1 "proxy_send_timeout rules on a connection from the pool"
# faults: F16.1 "the timeout of the request before it does not end one that may take longer"
# faults: F16.1 "it does not run while the connection is in use"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: an idle connection is closed after the timeout, and not before
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 600ms;
--- request eval
["GET /", "GET /control/stats", "GET /pause?delay=900", "GET /control/stats", "GET /"]
--- response_body_like eval
["connection 1 request 1", '"accepted":1,"open":1', "", '"accepted":1,"open":0', "connection 2 request 1"]


=== TEST 2: every use starts the timeout anew
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 1500ms;
--- request eval
["GET /", "GET /pause?delay=900", "GET /", "GET /pause?delay=900", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", "connection 1 request 2", "", "connection 1 request 3"]


=== TEST 3: it does not run while the connection is in use
The answer takes longer than the timeout, on a connection that has been idle before.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 500ms;
--- request eval
["GET /", "GET /?delay=900", "GET /"]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3')
--- no_error_log
[error]


=== TEST 4: proxy_read_timeout rules again on a connection from the pool
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_read_timeout 500ms;
}
--- request eval
["GET /", "GET /?delay=900", "GET /"]
--- error_code eval
[200, 504, 200]
--- response_body_like eval
["connection 1 request 1", "504 Gateway", "connection 2 request 1"]


=== TEST 5: a timeout of zero keeps nothing beyond the moment
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 0;
--- request eval
["GET /", "GET /pause?delay=50", "GET /control/stats", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", '"accepted":1,"open":0', "connection 2 request 1"]


=== TEST 6: the timeout of the request before it does not end one that may take longer
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /short { proxy_pass http://backend; proxy_read_timeout 300ms; proxy_send_timeout 300ms; }
location /long { proxy_pass http://backend; }
--- request eval
["GET /short?delay=100", "GET /long?delay=700", "GET /short"]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3')
--- no_error_log
[error]


=== TEST 7: proxy_send_timeout rules on a connection from the pool
The server reads nothing of a body that is larger than all buffers on the way.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_send_timeout 400ms;
    client_body_buffer_size 16m;
    client_max_body_size 20m;
}
--- request eval
["GET /", "POST /?early=1&delay=1500\n" . "x" x 15000000, "GET /"]
--- error_code eval
[200, 504, 200]
--- response_body_like eval
["connection 1 request 1", "504 Gateway", "connection 2 request 1"]


=== TEST 8: the timeouts of the request do not rule on an idle connection
nginx leaves the timer of a request set if the answer has no body.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 900ms;
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


=== TEST 9: a connection that is used often expires after its last use, and not before
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
keepalive_timeout 1000ms;
--- request eval
["GET /", "GET /pause?delay=300", "GET /", "GET /pause?delay=300", "GET /", "GET /pause?delay=700", "GET /control/stats",
 "GET /pause?delay=600", "GET /control/stats", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", "connection 1 request 2", "", "connection 1 request 3", "", '"accepted":1,"open":1', "",
 '"accepted":1,"open":0', "connection 2 request 1"]


=== TEST 10: each connection expires in its own time
Two servers in turn: the second one is used later than the first, then the first one again.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
keepalive 4;
keepalive_timeout 1000ms;
--- request eval
["GET /", "GET /pause?delay=400", "GET /", "GET /", "GET /pause?delay=300", "GET /control/stats", "GET /pause?delay=1000",
 "GET /control/stats", "GET /", "GET /pause?delay=400", "GET /", "GET /pause?delay=750", "GET /control/stats",
 "GET /pause?delay=600", "GET /control/stats"]
--- response_body_like eval
my $open = sub { CORE::join '.*\n.*', map { qq("accepted":$_->[0],"open":$_->[1]) } @_ };
["1 request 1", "", "1 request 1", "1 request 2", "", $open->([1, 1], [1, 1]), "", $open->([1, 0], [1, 0]),
 "2 request 1", "", "2 request 1", "", $open->([2, 1], [2, 0]), "", $open->([2, 0], [2, 0])]
