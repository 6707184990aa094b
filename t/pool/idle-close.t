# A server closes, resets or sends bytes on an idle connection: the connection leaves the pool at once, without a log message.
#
# faults: F1.1 "closed right after the answer, with every framing"
# faults: F1.2 "closed while idle" "the place of a closed connection is free again"
# faults: F2.2 "reset while idle"
# faults: F6.2 "unsolicited bytes while idle"
# faults: F6.5 "a 408 while idle, then the end of the connection" "a 408 while idle, and the connection stays open"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: closed while idle
A stale connection would give the POST a 502, and an error in the log.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /", "GET /control/drop?how=close", "GET /pause?delay=20", "POST /\nx", "POST /\nx"]
--- response_body_like eval
["connection 1 request 1", "", "", "connection 2 request 1", "connection 2 request 2"]
--- no_error_log
[error]
[crit]
[alert]


=== TEST 2: reset while idle
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /", "GET /control/drop?how=reset", "GET /pause?delay=20", "POST /\nx", "POST /\nx"]
--- response_body_like eval
["connection 1 request 1", "", "", "connection 2 request 1", "connection 2 request 2"]
--- no_error_log
[error]
[crit]
[alert]


=== TEST 3: unsolicited bytes while idle
They are a complete answer: the next client would get it if the connection stayed.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?fault=extra&after=50", "GET /pause?delay=100", "GET /control/stats", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", '"accepted":1,"open":0', "connection 2 request 1"]
--- no_error_log
[error]
[crit]
[alert]


=== TEST 4: the server's own keepalive timeout, told or not, ends the connection
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?header=Keep-Alive:timeout=1&fault=close&after=100", "GET /pause?delay=150", "POST /\nx"]
--- response_body_like eval
["connection 1 request 1", "", "connection 2 request 1"]
--- no_error_log
[error]


=== TEST 5: only the closed connection leaves the pool
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
keepalive 4;
--- request eval
["GET /", "GET /", "GET /control/drop?listener=0", "GET /pause?delay=20", "GET /", "GET /"]
--- response_body_like eval
["connection 1 request 1", "connection 1 request 1", "", "", "connection 2 request 1", "connection 1 request 2"]
--- no_error_log
[error]


=== TEST 6: the place of a closed connection is free again
A pool of one, whose connection is closed by the server time after time.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 1;
--- request eval
[("GET /", "GET /control/drop", "GET /pause?delay=20") x 3, "GET /", "GET /"]
--- response_body_like eval
["connection 1 request 1", "", "", "connection 2 request 1", "", "", "connection 3 request 1", "", "",
 "connection 4 request 1", "connection 4 request 2"]


=== TEST 7: closed right after the answer, with every framing
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
[(map { ("GET /?fault=close&$_", "GET /pause?delay=20") } "framing=length", "framing=chunked", "status=204"),
 "POST /\nx"]
--- error_code eval
[200, 200, 200, 200, 204, 200, 200]
--- response_body_like eval
["connection 1 request 1", "", "connection 2 request 1", "", "", "", "connection 4 request 1"]


=== TEST 8: a 408 while idle, then the end of the connection
As a server that has waited for a request in vain.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?" . Keepalive::Backend::timed_out(100) . "&fault=close", "GET /pause?delay=200", "POST /\nx", "POST /\nx"]
--- response_body_like eval
["^ok\$", "", "connection 2 request 1", "connection 2 request 2"]
--- no_error_log
[error]
[crit]
[alert]


=== TEST 9: a 408 while idle, and the connection stays open
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?" . Keepalive::Backend::timed_out(100), "GET /pause?delay=200", "GET /control/stats", "POST /\nx"]
--- response_body_like eval
["^ok\$", "", '"accepted":1,"open":0', "connection 2 request 1"]
--- no_error_log
[error]
[crit]
[alert]
