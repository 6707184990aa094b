# Another module has settings for one request: Lua's balancer sets its timeouts, tries and header. They hold for that request,
# also on a stale connection, and never for the next one.
#
# faults: F3.4 "timeouts of the second try hold for that" "and not for another request of the location"
# faults: F3.4 "a stale connection: the timeouts hold for the new one"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my @modules = has_module_file('ndk_http_module.so', 'ngx_http_lua_module.so');
plan skip_all => 'nginx has no Lua module' unless @modules;

my $backend = Keepalive::Backend->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my ($one, $two) = map { ($backend->address($_) =~ /(\d+)$/)[0] } 0, 1;
my $refusing = free_port();
my $port = free_port();
my $ours = is_ours();
my $unchecked = $ours ? 'keepalive_check off;' : '';

# The first try of each request goes to a server that refuses it.
my $refused = <<"END";
        local balancer = require 'ngx.balancer'
        local first = not ngx.ctx.tried
        ngx.ctx.tried = true
        if first then balancer.set_more_tries(1) end
        if ngx.var.arg_read then balancer.set_timeouts(1, 1, tonumber(ngx.var.arg_read) / 1000) end
        balancer.set_current_peer('127.0.0.1', first and $refusing or $one)
END
my $straight = <<"END";
        local balancer = require 'ngx.balancer'
        ngx.ctx.asked = (ngx.ctx.asked or 0) + 1
        ngx.var.asked = ngx.ctx.asked
        ngx.var.failure = balancer.get_last_failure() or '-'
        if ngx.ctx.asked == 1 then balancer.set_more_tries(1) end
        if ngx.var.arg_read then balancer.set_timeouts(1, 1, tonumber(ngx.var.arg_read) / 1000) end
        if ngx.var.arg_more then
            ngx.req.set_header('X-More', ngx.var.arg_more)
            balancer.recreate_request()
        end
        balancer.set_current_peer('127.0.0.1', $two)
END
my $nginx = Keepalive::Nginx->new(main => join('', map { "load_module $_;" } @modules), http => <<"END")->start;
$proxy_keepalive
proxy_connect_timeout 5s;
upstream refused { server 0.0.0.1; balancer_by_lua_block {
$refused    } keepalive 4; }
upstream straight { server 0.0.0.1; balancer_by_lua_block {
$straight    } keepalive 4; $unchecked }
upstream off { server 0.0.0.1; balancer_by_lua_block {
$straight    } keepalive 4; $unchecked @{[ $ours ? 'keepalive_stale_retry off;' : '' ]} }
server {
    listen 127.0.0.1:$port;
    set \$asked 0;
    set \$failure -;
    add_header X-Asked "\$asked \$failure" always;
    location /refused { proxy_pass http://refused; }
    location /straight { proxy_pass http://straight; }
    location /off { proxy_pass http://off; }
}
END

sub status { my ($path, %options) = @_; return get($port, $path, %options)->{status} }

# Its first try is refused, its second one has 300 ms.
is status('/refused?read=300&delay=900'), 504, 'timeouts of the second try hold for that';
is status('/refused?delay=900'), 200, 'and not for another request of the location';
is status('/refused?read=300&delay=900'), 504, 'they hold again';
is status('/refused?read=3000&delay=900'), 200, 'a longer one does, too';
is status('/refused?delay=900'), 200, 'and nothing of that stays';

# The head of the request is written anew by Lua, and is longer then.
$backend->drop;
$backend->reset;
my @answers = map { get($port, "/straight?more=" . 'x' x (10 * $_)) } 1 .. 5;
is join(' ', map { $_->{status} } @answers), '200 200 200 200 200', 'another head: all are answered';
is $backend->stats(1)->{accepted}, 1, 'by one connection';
@answers = map { get($port, "/straight?more=$_", method => 'POST', body => 'y' x 100) } 1 .. 5;
is join(' ', map { $_->{status} } @answers), '200 200 200 200 200', 'another head and a body: all are answered';
is $backend->stats(1)->{accepted}, 1, 'by the same connection';

SKIP: {
    skip 'needs the module', 7 unless $ours;
    # A stale connection, and then a slow answer: the server closes when the second request comes, and the third one is slow.
    my $stale = sub {
        my ($location, $query, %options) = @_;
        $backend->drop;
        wait_for { !$backend->stats(1)->{open} } or die 'the pool is not empty';
        get($port, "/$location");
        return get($port, "/$location?fault=close&at=start&from=2&$query", %options);
    };
    my $answer = $stale->('straight', 'read=300&delay=600');
    is $answer->{status}, 504, 'a stale connection: the timeouts hold for the new one';
    is status('/straight?delay=900'), 200, 'and for no other request';
    $answer = $stale->('straight', 'read=3000&delay=600');
    is $answer->{status}, 200, 'a stale connection: a longer timeout holds';
    is $answer->{headers}{'x-asked'}, '1 -', 'and Lua was asked once';
    $answer = $stale->('straight', 'more=abc');
    is $answer->{status}, 200, 'a stale connection, another head: sent again';
    # Where nginx itself repeats it, by asking Lua again.
    $answer = $stale->('off', 'read=3000');
    is $answer->{status}, 200, 'keepalive_stale_retry off: nginx repeats it';
    is $answer->{headers}{'x-asked'}, '2 next', 'Lua hears that the request goes on, and of no failure';
}

$nginx->stop;
done_testing;
