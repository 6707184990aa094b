# auth_subrequest_timeout: the time limit of a decision, for every phase that can be slow. Clients that leave, reloads and exits
# during a decision.
#
# faults: F9.1 "the client leaves, the connections are closed"
# faults: F20.3 "not before the budget is spent" "a connection that does not come about"

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Deaf;
use Keepalive::Setup;

needs_module();

my $cache = work_dir() . '/cache';
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp') or die $!;
my $small = Keepalive::Backend->start;
my ($itself, $http2_port) = map { free_port() } 1 .. 2;
my $http2 = http2_listen($http2_port);
my $times = work_dir() . '/times.log';

# /NAME has a budget of 300 ms, /patient/NAME one of 20 s; both ask the same auth location.
my %auth = (
    script => 'proxy_pass http://auth/?$http_x_auth;',
    queue  => 'proxy_pass http://small/?$http_x_auth;',
    lock   => 'proxy_cache decisions; proxy_cache_key same; proxy_cache_lock on; proxy_cache_lock_timeout 20s;'
        . ' proxy_cache_lock_age 20s; proxy_cache_valid 200 10s; proxy_pass http://auth/?$http_x_auth;',
    rate   => 'limit_req zone=slow burst=10; proxy_pass http://auth/?$http_x_auth;',
    name   => 'resolver 127.0.0.1:' . $silent->sockport . '; resolver_timeout 20s; proxy_pass http://$http_x_auth.example/;',
    loop   => "proxy_pass http://127.0.0.1:$itself;",
    dark   => 'proxy_connect_timeout 20s; proxy_pass http://deaf;',
    shake  => 'proxy_pass https://auth_shake;',
    page   => 'proxy_intercept_errors on; error_page 401 /slow-page; proxy_pass http://auth/?$http_x_auth;',
);
my $locations = '';
for my $name (sort keys %auth) {
    $locations .= "location = /auth-$name { internal; $auth{$name} }\n";
    for my $way (['', '300ms'], ['/patient', '20s']) {
        $locations .= "location $way->[0]/$name { auth_subrequest /auth-$name; auth_subrequest_timeout $way->[1];"
            . " auth_subrequest_error 503; proxy_pass http://app; }\n";
    }
}

# A server that takes connections and says nothing.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20) or die $!;

# A server on which no connection is ever established.
my $deaf = Keepalive::Deaf->start;

my $site = Keepalive::Auth->new(workers => 1, http => <<"END", locations => <<"END2")->start;
proxy_cache_path $cache keys_zone=decisions:1m;
limit_req_zone all zone=slow:64k rate=30r/m;
upstream small { server @{[ $small->address ]} max_conns=1; keepalive 1; queue 1 timeout=20s; }
upstream auth_shake { server 127.0.0.1:@{[ $mute->sockport ]}; }
upstream deaf { server @{[ $deaf->address ]}; }
log_format times '\$uri \$status "\$auth_subrequest_status" "\$auth_subrequest_time"';
server {
    listen 127.0.0.1:$itself;
    location / { auth_subrequest /auth-itself; auth_subrequest_timeout 300ms; try_files /none =204; }
    location = /auth-itself { proxy_pass http://127.0.0.1:$itself/; }
}
END
    $locations
    location /none { auth_subrequest /auth-script; auth_subrequest_timeout 0; proxy_pass http://app; }
    location /default { auth_subrequest /auth-script; proxy_pass http://app; }
    location /redirected {
        auth_subrequest /auth-script;
        auth_subrequest_timeout 300ms;
        error_page 500 503 /second;
        proxy_pass http://app;
    }
    location /second { auth_subrequest off; return 200 second; }
    location = /slow-page { internal; proxy_pass http://app/?delay=2000; }
    access_log $times times;
    @{[ $http2 // '' ]}
END2
my $nginx = $site->{nginx};
# nginx keeps its socket for the resolver.
$site->status('/name', 'first');
my $descriptors = $site->descriptors;

# A request whose decision must end in its budget, and its connection, which goes on.
sub expect_timeout {
    my ($title, $path, $script, %options) = @_;
    $site->log_since;
    my $begun = time;
    my $request = $site->begin($path, $script, %options, keep_alive => 1);
    my $answer = $request->receive;
    my $took = time - $begun;
    like $answer, qr{^HTTP/1.1 503 }, "$title: the error";
    cmp_ok $took, '>', 0.28, "$title: not before the budget is spent";
    cmp_ok $took, '<', 1.5, "$title: and not long after it";
    like $site->log_since, qr/\[error\].*auth subrequest timed out/, "$title: logged";
    $begun = time;
    my $next = $site->begin('/script', 'status=204', keep_alive => 1, over => $request->{socket});
    like $next->receive, qr{^HTTP/1.1 200 }, "$title: the connection goes on";
    cmp_ok time - $begun, '<', 1, "$title: at once";
}

# The last line of the log that begins with this.
sub log_line {
    my ($begin) = @_;
    open my $in, '<', $times or return '';
    my @lines = grep { index($_, $begin) == 0 } <$in>;
    return $lines[-1];
}

# The auth server itself.
expect_timeout('no answer', '/script', 'fault=hang&at=start');
like log_line('/script 503'), qr{^/script 503 "504" "0\.[3-9]\d\d"$}, 'no answer: status and time in the log';
ok wait_for { $site->{auth}->stats->{open} == 1 }, 'no answer: the connection is closed, another one idle';
expect_timeout('POST', '/script', 'fault=hang&at=start', method => 'POST', body => 'x' x 100_000);
expect_timeout('a connection that does not come about', '/dark', '');
expect_timeout('a handshake that does not come', '/shake', '') if has_feature('with-http_ssl_module');
expect_timeout('a page for the question itself', '/page', 'status=401');
is $site->status('/none', 'status=204&delay=600'), 200, 'no budget';
is $site->status('/default', 'status=204&delay=600'), 200, 'the default is longer than that';
is $site->status('/script', 'status=204&delay=100'), 200, 'in time';
like log_line('/script 200'), qr{^/script 200 "204" "0\.1\d\d"$}, 'in time: status and time in the log';
is $site->get('/redirected', 'fault=hang&at=start')->{body}, 'second', 'error_page of the error';

# Several at a time: each has its own budget, whatever becomes of those that were asked before and after it.
my @several = map { sleep 0.06; { begun => time, request => $site->begin('/script', $_) } }
    'fault=hang&at=start', 'status=204&delay=100', ('fault=hang&at=start') x 3;
$several[3]{request}->abort;
is $several[1]{request}->finish->{status}, 200, 'several: the one that is answered';
for (0, 2, 4) {
    is $several[$_]{request}->finish->{status}, 503, "several: number $_ is not";
    my $took = time - $several[$_]{begun};
    cmp_ok $took, '>', 0.28, "several: number $_: not before its budget is spent";
    cmp_ok $took, '<', 1, "several: number $_: and not long after it";
}

# The queue: the place is given back, so that the next one finds it.
my $held = $site->begin('/patient/queue', 'fault=hang&at=start');
ok wait_for { $small->stats->{requests} == 1 }, 'queue: one decision holds the server';
expect_timeout("queue: number $_", '/queue', 'status=204') for 1 .. 3;
my $waits = $site->begin('/patient/queue', 'status=204');
sleep 0.05;
$site->log_since;
is $site->status('/queue', 'status=204'), 503, 'queue: now it is full';
unlike $site->log_since, qr/timed out/, 'queue: which is an error at once';
$held->abort;
is $waits->finish->{status}, 200, 'queue: who waits is served';
is $small->stats->{max_open}, 1, 'queue: over one connection';

# proxy_cache_lock, limit_req, the resolver.
my $asked = $site->{auth}->stats->{requests};
$held = $site->begin('/patient/lock', 'status=200&delay=2500');
ok wait_for { $site->{auth}->stats->{requests} > $asked }, 'cache lock: one decision is being made';
expect_timeout('cache lock', '/lock', 'status=204');
my $leaves = $site->begin('/patient/lock', 'status=204');
sleep 0.1;
$leaves->abort;
is $held->finish->{status}, 200, 'cache lock: the first one ends well';
is $site->status('/lock', 'status=500'), 200, 'cache lock: and is remembered';

is $site->status('/patient/rate', 'status=204'), 200, 'limit_req: the first is not delayed';
expect_timeout('limit_req', '/rate', 'status=204');
expect_timeout('resolver', '/name', 'some-name');
my @resolving = map { $site->begin('/name', "name$_") } 1 .. 5;
is join(' ', map { $_->finish->{status} } @resolving), '503 503 503 503 503', 'resolver: five names';

# The same for a stream of HTTP/2, whose connection goes on, too.
SKIP: {
    skip 'no HTTP/2', 6 unless $http2;
    my $asked = $small->stats->{requests};
    my $held = $site->begin('/patient/queue', 'fault=hang&at=start');
    ok wait_for { $small->stats->{requests} > $asked }, 'HTTP/2: one decision holds the small server';
    for my $case (['script', 'fault=hang&at=start'], ['queue', ''], ['name', 'some-name'], ['dark', ''], ['page',
        'status=401']) {
        my ($name, $script) = @$case;
        my $begun = time;
        is curl($http2_port, "/$name", '-H', "X-Auth: $script")->{status}, 503, "HTTP/2: $name";
        cmp_ok time - $begun, '<', 1.5, "HTTP/2: $name: in its budget";
        curl($http2_port, "/patient/$name", '--max-time', '0.1', '-H', "X-Auth: $script");
    }
    $held->abort;
    is curl($http2_port, '/script', '-H', 'X-Auth: status=204')->{status}, 200, 'HTTP/2: the next one is allowed';
}

# A question that comes back to the same location as a new request, and so on, until the first budget is spent.
my $begun = time;
is $site->status('/loop', ''), 503, 'an auth server that asks itself';
cmp_ok time - $begun, '<', 3, 'ends with the budget';
$nginx->allow(qr/worker_connections are not enough/);
ok wait_for { $site->status('/script', 'status=204') == 200 }, 'and harms nobody after that';

ok !$deaf->takes_one, 'still nobody comes through to the deaf server';

# The client goes: nothing of it stays.
$small->drop;
for my $path (map { "/patient/$_" } qw(script queue name dark)) {
    my @gone = map { $site->begin($path, 'fault=hang&at=start', method => $_ % 2 ? 'POST' : 'GET',
        $_ % 2 ? (body => 'x') : ()) } 1 .. 2;
    sleep 0.1;
    $_->abort for @gone;
    ok wait_for { !$site->{auth}->stats->{open} && !$small->stats->{open} },
        "$path: the client leaves, the connections are closed";
    is $site->status('/script', 'status=204'), 200, "$path: the next one is served";
    $site->{auth}->drop;
}
is $site->status('/queue', 'status=204'), 200, 'and the small server is free';

$small->drop;
ok wait_for { !$small->stats->{open} }, 'no connection to the small server is left';
$site->expect_no_connection('at the end');
ok wait_for { $site->descriptors <= $descriptors },
    'no descriptor is left' or diag $site->descriptors . " instead of $descriptors";

# Reload and exit: decisions that are being made come to their end first.
my $decided = $site->begin('/patient/script', 'status=204&delay=400');
my $denied = $site->begin('/patient/script', 'status=403&delay=400');
my $late = $site->begin('/script', 'fault=hang&at=start');
my $requests = $site->{auth}->stats->{requests};
sleep 0.1;
my ($old) = $nginx->reload;
is join(' ', map { $_->finish->{status} } $decided, $denied, $late), '200 403 503', 'reload: what was asked before it';
ok wait_for { !Keepalive::Nginx::is_alive($old) }, 'reload: the old worker exits';
is $site->status('/script', 'status=204'), 200, 'reload: the new one is well';

$decided = $site->begin('/patient/script', 'status=204&delay=400');
$late = $site->begin('/script', 'fault=hang&at=start');
sleep 0.1;
$nginx->signal('QUIT');
is join(' ', map { $_->finish->{status} } $decided, $late), '200 503', 'QUIT: what was asked before it';
$site->stop;
done_testing;
