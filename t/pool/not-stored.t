# Connections that must never be stored. Each is still open on the server's side, so reuse would show.
#
# faults: F1.1 "a close, still unread when the connection is stored"
# faults: F6.1 "more bytes than announced, in one piece with the answer"
# faults: F6.1 "more bytes, still unread when the connection is stored"
# faults: F7.1 "an HTTP/1.0 answer, even with"
# faults: F7.2 "an answer without a body, closed by its header" "the request said"
# faults: F7.3 "an answer whose end is the end of the connection"
# faults: F8.1 "the server answers before it has read the request body"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: the answer says "Connection: close"
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?header=Connection:close&stay=1", "GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1', '2:2')


=== TEST 2: an HTTP/1.0 answer
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?version=1.0&stay=1", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 3: an HTTP/1.0 answer, even with "Connection: keep-alive"
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?version=1.0&header=Connection:keep-alive", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 4: an answer without a body, closed by its header
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?status=204&header=Connection:close&stay=1", "HEAD /?header=Connection:close&stay=1", "GET /"]
--- error_code eval
[204, 200, 200]
--- response_body eval
["", "", "connection 3 request 1\n"]


=== TEST 5: the answer timed out
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_read_timeout 400ms;
}
--- request eval
["GET /?delay=600", "GET /pause?delay=400", "GET /"]
--- error_code eval
[504, 200, 200]
--- response_body_like eval
["504 Gateway", "", "connection 2 request 1"]


=== TEST 6: the body timed out half-way
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_read_timeout 400ms;
    proxy_buffering off;
}
--- request eval
["GET /?len=2000&fault=hang&at=body", "GET /"]
--- ignore_response
--- response_headers eval
["X-Connection: 1", "X-Connection: 2"]


=== TEST 7: half a header, then nothing
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_read_timeout 400ms;
}
--- request eval
["GET /?fault=hang&at=header", "GET /"]
--- error_code eval
[504, 200]
--- response_body_like eval
["504 Gateway", "connection 2 request 1"]


=== TEST 8: a status that proxy_next_upstream calls a failure
Both servers answer 500, without a body: the first connection is freed as failed, the second one enters its pool.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT  max_fails=0;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2 max_fails=0;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_next_upstream http_500;
}
--- request eval
["GET /?status=500&len=0", "GET /pause?delay=20", "GET /control/stats"]
--- error_code eval
[500, 200, 200]
--- response_body_like eval
["", "", qr/"accepted":1,"open":0.*\n.*"accepted":1,"open":1/]


=== TEST 9: a failing status without a second server is an answer like others
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_next_upstream http_500;
}
--- request eval
["GET /?status=500", "GET /?status=404", "GET /"]
--- error_code eval
[500, 404, 200]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3')


=== TEST 10: more bytes than announced, in one piece with the answer
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?fault=extra", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 11: more bytes after the last chunk
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?framing=chunked&fault=extra", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 12: more bytes, still unread when the connection is stored
The answer fills nginx's buffer exactly, so what follows waits in the socket and no further event will tell of it.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_buffer_size 4k;
}
--- request eval
["GET /?status=204&fill=4096&fault=extra", "HEAD /?fill=4096&fault=extra", "GET /?fill=4096&fault=extra", "GET /"]
--- error_code eval
[204, 200, 200, 200]
--- response_body eval
["", "", "connection 3 request 1\n", "connection 4 request 1\n"]
--- no_error_log
[error]


=== TEST 13: a close, still unread when the connection is stored
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    proxy_buffer_size 4k;
}
--- request eval
["GET /?status=204&fill=4096&fault=close", "GET /?fill=4096&fault=close",
 "GET /pause?delay=20", "POST /\nx"]
--- error_code eval
[204, 200, 200, 200]
--- response_body_like eval
["", "connection 2 request 1", "", "connection 3 request 1"]
--- no_error_log
[error]


=== TEST 14: the server answers before it has read the request body
More bytes than any socket buffer takes: part of the body is unsent when the answer is complete.
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    $TEST_NGINX_PROXY_KEEPALIVE
    client_body_buffer_size 16m;
}
--- request eval
["POST /?early=1&fault=hang&after=300\n" . "x" x 12000000, "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 15: an answer whose end is the end of the connection
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- request eval
["GET /?framing=eof", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 16: the request said "Connection: close"
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    proxy_pass http://backend;
    proxy_http_version 1.1;
    proxy_set_header Connection close;
}
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')
