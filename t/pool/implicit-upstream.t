# proxy_pass to an address, literal or from a variable, has no pool. A variable that names an upstream block uses its pool.
#
# faults: F17.1 "an address from a variable"

use lib 't/lib';
use Keepalive::Setup;
use Test::Nginx::Socket 'no_plan';
use Keepalive::Blocks;

run_tests();

__DATA__

=== TEST 1: an address
--- http_config
upstream other {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
    keepalive 4;
}
--- config
location / {
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    $TEST_NGINX_PROXY_KEEPALIVE
}
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 2: an address from a variable
--- http_config
upstream other {
    server 127.0.0.1:$TEST_NGINX_BACKEND_PORT2;
    keepalive 4;
}
--- config
location / {
    set $address 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    proxy_pass http://$address;
    $TEST_NGINX_PROXY_KEEPALIVE
}
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')


=== TEST 3: the name of an upstream from a variable
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- config
location / {
    set $name backend;
    proxy_pass http://$name;
    $TEST_NGINX_PROXY_KEEPALIVE
}
--- request eval
["GET /", "GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '1:2', '1:3')


=== TEST 4: an address that an upstream block also has does not use that block's pool
--- upstream
server 127.0.0.1:$TEST_NGINX_BACKEND_PORT;
keepalive 4;
--- http_config
$TEST_NGINX_PROXY_KEEPALIVE
--- config
location /block { proxy_pass http://backend; }
location /address { proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- request eval
["GET /block", "GET /address", "GET /block"]
--- response_body eval
main::answered_by('1:1', '2:1', '1:2')


=== TEST 5: no upstream block at all
--- config
location / {
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    $TEST_NGINX_PROXY_KEEPALIVE
}
--- request eval
["GET /", "GET /"]
--- response_body eval
main::answered_by('1:1', '2:1')
