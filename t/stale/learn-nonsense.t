# keepalive_hint learn: what a client makes the server do teaches nothing; what was announced holds without a record; clients keep
# their connections.
#
# faults: F1.2 "no record: an announced end is obeyed"
# faults: F11.6 "requests that the server answers by a close teach nothing" "surplus bytes behind an answer teach nothing"
# faults: F11.6 "drained answers: the limit is forgotten"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client qw(get begin);
use Keepalive::Lessons;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $port = free_port();
my @names = qw(refuse surplus drained ntlm lua);
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x @names]);
my %number = map { $names[$_] => $_ } 0 .. $#names;
my %address = map { $_ => $backend->address($number{$_}) } @names;
my @modules = has_module_file('ndk_http_module.so', 'ngx_http_lua_module.so');
my ($lua_port) = $address{lua} =~ /(\d+)$/;
my $lua = @modules ? <<"END" : '';
upstream lua {
    server 0.0.0.1;
    balancer_by_lua_block { require('ngx.balancer').set_current_peer('127.0.0.1', $lua_port) }
    keepalive 4;
}
END
my $lua_location = @modules ? 'location /lua { proxy_pass http://lua; }' : '';
my $nginx = Keepalive::Nginx->new(main => join('', map { "load_module $_;" } @modules), http => <<"END")->start;
$proxy_keepalive
upstream refuse { server $address{refuse}; keepalive 4; }
upstream surplus { server $address{surplus}; keepalive 4; }
upstream drained { server $address{drained}; keepalive 4; }
upstream other { server $address{ntlm}; keepalive 4; }
upstream ntlm { server $address{ntlm}; keepalive 4; ntlm; }
$lua
server {
    listen 127.0.0.1:$port;
    location /refuse { proxy_pass http://refuse; }
    location /surplus { proxy_pass http://surplus; }
    location /drained { proxy_pass http://drained; }
    location /drained/error { proxy_pass http://drained; proxy_intercept_errors on; error_page 404 = \@error; }
    location \@error { return 200 error; }
    location /other { proxy_pass http://other; }
    location /ntlm { proxy_pass http://ntlm; }
    $lua_location
}
END

sub told { limits_told($nginx, $address{ $_[0] }, $_[1]) }
sub stats { $backend->stats($number{ $_[0] }) }

# A server that closes the connection because of a request, as nginx does with `return 444`.
for (1 .. 6) {
    get($port, '/refuse') for 1 .. 5;
    get($port, '/refuse?fault=close&at=start');
}
is join(' ', told('refuse', 'requests')), '', 'requests that the server answers by a close teach nothing';

for (1 .. 6) {
    get($port, '/surplus') for 1 .. 4;
    get($port, '/surplus?fault=extra&after=5');
    sleep 0.05;
}
is join(' ', told('surplus', 'requests')), '', 'surplus bytes behind an answer teach nothing';

# The server closes connections after six requests, and later it does not. All responses are drained then.
{
    my $deadline = time + 10;
    get($port, '/drained?fault=close&after=2&from=6') while !told('drained', 'requests') && time < $deadline;
    is +(told('drained', 'requests'))[-1], 6, 'drained answers: a limit';
    my $forgotten = sub { $nginx->error_log =~ /server \Q$address{drained}\E no longer closes connections/ };
    $deadline = time + 6;
    while (!$forgotten->() && time < $deadline) {
        get($port, '/drained/error?status=404&len=2000&drip=5&pieces=2');
        sleep 0.03;
    }
    ok $forgotten->(), 'drained answers: the limit is forgotten';
}

# The server closes at 500 milliseconds, and once earlier. Now the pool is cautious.
{
    for (1 .. 6) {
        last if told('ntlm', 'idle');
        get($port, '/other?idle=500');
        sleep 0.6;
    }
    ok scalar(told('ntlm', 'idle')), 'a limit of the idle time';
    get($port, '/other?idle=200');
    sleep 0.3;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
    my $serial = sub {
        my (%options) = @_;
        my $answer = begin($port, '/ntlm', over => $socket, keep_alive => 1, %options)->receive;
        return $answer =~ /^X-Connection: (\S+)/im ? $1 : $answer;
    };
    my @user = (headers => { Authorization => 'NTLM TlRMTVNTUAABAAAA' });
    my $first = $serial->(@user);
    sleep 0.35;
    is $serial->(method => 'POST', body => 'x'), $first, 'a POST gets the connection of its client, also with caution';
}

SKIP: {
    skip 'nginx has no Lua module', 1 unless @modules;
    get($port, '/lua?header=Keep-Alive:timeout%3D1&idle=3000');
    sleep 1.2;
    is stats('lua')->{open}, 0, 'no record: an announced end is obeyed';
}

$nginx->stop;
done_testing;
