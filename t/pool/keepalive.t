# `keepalive connections [local]`: the pool keeps this many idle connections, and not one more.
#
# faults: F11.4 "is off" "a pool of one holds the connection of one server at a time"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: a connection is used again
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 1;
--- request eval
[("GET /") x 4]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3', '1:4')


=== TEST 2: a pool of one holds the connection of one server at a time
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
keepalive 1;
--- request eval
[("GET /") x 4]
--- response_body eval
main::answered_by('1:1', '1:1', '2:1', '2:1')


=== TEST 3: a pool of two holds the connections of two servers
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
keepalive 2;
--- request eval
[("GET /") x 4]
--- response_body eval
main::answered_by('1:1', '1:1', '1:2', '1:2')


=== TEST 4: the least recently used connection is evicted
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT3;
keepalive 2;
--- request eval
[("GET /") x 3, "GET /pause?delay=20", "GET /control/stats"]
--- response_body_like eval
["connection 1 request 1", "connection 1 request 1", "connection 1 request 1",
 "",
 # The first server's connection has been evicted by the third's; the two others are in the pool.
 qr/"accepted":1,"open":0.*\n.*"accepted":1,"open":1.*\n.*"accepted":1,"open":1/]


=== TEST 5: every upstream has a pool of its own
--- http_config
upstream one {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    keepalive 4;
}
upstream two {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    keepalive 4;
}
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /one { proxy_pass http://one; }
location /two { proxy_pass http://two; }
--- request eval
["GET /one", "GET /two", "GET /one", "GET /two"]
--- response_body eval
main::answered_by('1:1', '2:1', '1:2', '2:2')


=== TEST 6: without "local", locations share the pool of their upstream
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /one { proxy_pass http://backend; }
location /two { proxy_pass http://backend; }
--- request eval
["GET /one", "GET /two", "GET /one"]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3')


=== TEST 7: with "local", locations do not share connections
--- skip_eval
9: !Keepalive::Setup::is_ours() && !Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4 local;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /one { proxy_pass http://backend; }
location /two { proxy_pass http://backend; }
--- request eval
["GET /one", "GET /two", "GET /one", "GET /two"]
--- response_body eval
main::answered_by('1:1', '2:1', '1:2', '2:2')


=== TEST 8: with "local", the limit is still that of the whole upstream
--- skip_eval
9: !Keepalive::Setup::is_ours() && !Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 1 local;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /one { proxy_pass http://backend; }
location /two { proxy_pass http://backend; }
--- request eval
["GET /one", "GET /two", "GET /one"]
--- response_body eval
main::answered_by('1:1', '2:1', '3:1')


=== TEST 9: "keepalive 0" is off
--- skip_eval
9: !Keepalive::Setup::is_ours() && !Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 0;
--- request eval
["GET /", "GET /", "GET /pause?delay=20", "GET /control/stats"]
--- response_body_like eval
["connection 1 request 1", "connection 2 request 1", "", '"accepted":2,"open":0']


=== TEST 10: before 1.29.7 an upstream without the directive keeps nothing
--- skip_eval
6: Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 11: from 1.29.7 on it keeps them, for each location apart
--- skip_eval
9: !Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
--- config
location /one { proxy_pass http://backend; }
location /two { proxy_pass http://backend; }
--- request eval
["GET /one", "GET /two", "GET /one", "GET /two"]
--- response_body eval
main::answered_by('1:1', '2:1', '1:2', '2:2')


=== TEST 12: the other directives alone do not switch it on before 1.29.7
--- skip_eval
6: Keepalive::Setup::version_at_least('1.29.7')
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive_requests 100;
keepalive_time 1h;
keepalive_timeout 60s;
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')
