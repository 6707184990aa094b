# Memory runs out at each allocation of each hook: the worker lives on, the request ends with a status, and the next request is
# served. Needs a module built with the feature fail-allocations, in TEST_NGINX_FAILING_MODULE.
#
# faults: F19.1 "allocations, each may fail" "the worker is the one that was started"
# faults: F19.2 "nginx -t: $number allocations, each may fail" "reload: some of $number allocations fail"

use strict;
use warnings;

BEGIN { $ENV{TEST_NGINX_LOAD_MODULES} = $ENV{TEST_NGINX_FAILING_MODULE} if $ENV{TEST_NGINX_FAILING_MODULE} }

use HTTP::Tiny;
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

plan skip_all => 'needs a module built with fail-allocations, in TEST_NGINX_FAILING_MODULE' unless $ENV{TEST_NGINX_FAILING_MODULE};
plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my $FOR_EVER = 1 << 40;

# Which allocations fail, and how many there were: see src/ffi/nginx/memory/failing.rs.
my $order = $ENV{KEEPALIVE_FAIL_ALLOCATIONS} = work_dir() . '/order';

sub set_order {
    my ($first, $last) = @_;
    # In place: nginx has the file mapped.
    open my $out, -f $order ? '+<' : '>', $order or die "$order: $!";
    syswrite $out, pack 'Q4', $first, $last, 0, 0;
}

sub counted {
    open my $in, '<', $order or die "$order: $!";
    sysread $in, my $numbers, 32;
    return (unpack 'Q4', $numbers)[2, 3];
}

set_order(0, 0);

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my ($port, $secure, $nobody) = map { free_port() } 1 .. 3;
my ($certificate, $key) = self_signed('localhost');
my ($one, $two, $three) = map { $backend->address($_) } 0 .. 2;

my $http = <<"END";
$proxy_keepalive
proxy_ssl_server_name on;
proxy_connect_timeout 500ms;
log_format all '\$upstream_connection_reused|\$upstream_connection_requests|\$upstream_keepalive_status|\$upstream_queue_time'
    '|\$auth_subrequest_status|\$auth_subrequest_time';
upstream pool { server $one; keepalive 8; }
upstream small { server $one; server $two; keepalive 1; }
upstream tls { server 127.0.0.1:$secure; keepalive 8; keepalive_timeout 1s; }
upstream queued { server $one max_conns=1; keepalive 8; queue 1 timeout=3s; }
upstream impatient { zone impatient 128k; server $one max_conns=1; keepalive 8; queue 5 timeout=20ms; }
upstream local { zone local 128k; server $one max_conns=1; keepalive 8 local; queue 5 timeout=2s; }
upstream retried { server 127.0.0.1:$nobody max_fails=0; server $one max_conns=1 max_fails=0; keepalive 8; queue 5 timeout=2s; }
upstream stale { server $one max_fails=0; keepalive 8; keepalive_check off; keepalive_stale_retry always; }
upstream user { server $one; keepalive 8; ntlm; }
upstream auth { server $three; keepalive 8; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_session_cache shared:tls:1m;
    access_log off;
    location / { return 200 secure; }
}
server {
    listen 127.0.0.1:$port;
    access_log @{[ work_dir() ]}/requests.log all;
    location /pool { proxy_pass http://pool; }
    location /small { proxy_pass http://small; }
    location /queued { proxy_pass http://queued; }
    location /impatient { proxy_pass http://impatient; }
    location /local/a { proxy_pass http://local; }
    location /local/b { proxy_pass http://local; }
    location /retried { proxy_pass http://retried; }
    location /user { proxy_pass http://user; }
    location /stale { proxy_pass http://stale; }
    location /tls {
        proxy_ssl_name \$arg_name;
        proxy_ssl_certificate $certificate\$arg_none;
        proxy_ssl_certificate_key $key\$arg_none;
        proxy_pass https://tls;
    }
    location = /ask { internal; proxy_pass http://auth/?\$http_x_auth; }
    location /authorised {
        auth_subrequest /ask;
        auth_subrequest_set \$who \$upstream_http_x_who;
        auth_subrequest_copy_header X-Who;
        auth_subrequest_pass_header X-Why;
        auth_subrequest_pass_body 4k;
        auth_subrequest_pass_cookies on;
        auth_subrequest_body 1k;
        auth_subrequest_timeout 2s;
        add_header X-User \$who;
        proxy_pass http://pool;
    }
    location /unread { auth_subrequest /ask; proxy_pass http://pool; }
    location = /status { access_log off; keepalive_status; }
}
END

my $nginx = Keepalive::Nginx->new(log_level => 'warn', http => $http)->start;
# What nginx says of a lack of memory, and what the module says where nginx was not asked.
$nginx->allow(qr/malloc\(\) failed, as a test wants it|no memory to show the numbers/);
my ($worker) = $nginx->workers;
my $status = Keepalive::Status->new($port);

# Requests that come one after the other, or, held for some time, at once.
sub one_by_one { return map { get($port, @$_)->{status} } @_ }
sub together { return map { $_->finish->{status} } map { begin($port, @$_) } @_ }
# Requests of one client. Without memory its connection is closed, and it is nobody then: that is as good.
sub over_one {
    my $client = HTTP::Tiny->new(keep_alive => 1);
    my @got = map { $client->get("http://127.0.0.1:$port/user?login=1", { headers => $_ })->{status} } @_;
    return map { $_ == 599 ? 0 : $_ == 401 ? 200 : $_ } @got;
}
sub drop { $backend->drop; return wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 } }

my @body = (method => 'POST', body => 'x' x 300);
my $allowed = 'header=X-Who:me&header=Set-Cookie:a=1&header=Set-Cookie:b=2&len=5000';
my $denied = 'status=403&header=X-Why:not&len=2000';

# What is done before, what is counted and fails, and which statuses there may be besides the expected ones. A status of 0
# is an answer that breaks off; the list is that of README.
my @scenarios = (
    ['GET, no connection', \&drop, sub { one_by_one(['/pool']) }, '200', [500]],
    ['GET, from the pool', sub { one_by_one(['/pool']) }, sub { one_by_one(['/pool']) }, '200', [500]],
    ['POST, from the pool', sub { one_by_one(['/pool']) }, sub { one_by_one(['/pool', @body]) }, '200', [500]],
    ['eviction', \&drop, sub { one_by_one(map { ["/small?n=$_"] } 1 .. 3) }, '200 200 200', [500]],
    ['TLS, handshake', sub { get($port, '/tls?name=' . rand()) }, sub { one_by_one(['/tls?name=new' . rand()]) }, '200', [500]],
    ['TLS, from the pool', sub { get($port, '/tls?name=a') }, sub { one_by_one(['/tls?name=a']) }, '200', [500]],
    ['a wait, and its turn', \&drop, sub { together(['/queued?delay=30&n=1'], ['/queued?n=2']) }, '200 200', [500, 502]],
    ['a full queue', \&drop, sub { join ' ', sort(together(map { ["/queued?delay=30&n=$_"] } 1 .. 3)) }, '200 200 502', [500, 502]],
    ['a wait that is too long', \&drop, sub { together(['/impatient?delay=60'], ['/impatient?n=2']) }, '200 502', [500, 502, 200]],
    ['a connection that makes room', sub { get($port, '/local/a') }, sub { one_by_one(['/local/b'], ['/local/a']) }, '200 200', [500, 502]],
    ['a server that refuses, and a wait', \&drop, sub { together(['/retried?delay=30&n=1'], ['/retried?n=2'], ['/retried?n=3']) }, '200 200 200', [500, 502]],
    ['a stale connection', sub { get($port, '/stale') }, sub { one_by_one(['/stale?fault=close&at=start&from=2']) }, '200', [500, 502]],
    ['a stale connection, POST', sub { get($port, '/stale') }, sub { one_by_one(['/stale?fault=close&at=start&from=2', @body]) }, '502', [500]],
    ['a user, and the next request of the same client', \&drop, sub { over_one({ Authorization => 'Negotiate user:a' }, {}) }, '200 200', [500, 0]],
    ['authorised', \&drop, sub { one_by_one(['/authorised', headers => { 'X-Auth' => $allowed, 'X-Who' => 'forged' }, @body]) }, '200', [500, 0]],
    ['denied', \&drop, sub { one_by_one(['/authorised', headers => { 'X-Auth' => $denied, Range => 'bytes=0-1' }]) }, '403', [500, 0]],
    ['an answer that nobody reads', \&drop, sub { one_by_one(['/unread', headers => { 'X-Auth' => 'len=20000' }]) }, '200', [500, 0]],
    (map { my $format = $_; ["status, $format", sub { get($port, '/pool') },
        sub { my $answer = get($port, "/status?format=$format"); $answer->{complete} ? $answer->{status} : $answer->{status} == 200 ? 0 : $answer->{status} },
        '200', [500, 0]] } qw(html json prometheus)),
);

# The gauges of all upstreams that are not zero, except for idle connections.
sub busy {
    my $upstreams = $status->json->{upstreams};
    return map { my $upstream = $_; map { $upstreams->{$upstream}{$_} ? "$upstream $_" : () } qw(active draining) } sort keys %$upstreams;
}

sub waiting {
    my $upstreams = $status->json->{upstreams};
    return grep { $upstreams->{$_}{queue} && $upstreams->{$_}{queue}{size} } sort keys %$upstreams;
}

my $log_at = 0;
sub log_since {
    open my $in, '<', $nginx->dir . '/logs/error.log' or die $!;
    seek $in, $log_at, 0;
    local $/;
    my $new = <$in> // '';
    $log_at += length $new;
    return $new;
}

# One failure, or all from the first on: the unexpected outcomes.
sub consequences {
    my ($before, $run, $expected, $others, $first, $last) = @_;
    my @wrong;
    $before->();
    log_since();
    set_order($first, $last);
    my $began = time;
    my @got = split ' ', join ' ', $run->();
    my $took = time - $began;
    my (undef, $failed) = counted();
    set_order(0, 0);
    my %may = map { $_ => 1 } @$others, split ' ', $expected;
    push @wrong, "statuses @got" if grep { !$may{$_} } @got or @got != split ' ', $expected;
    push @wrong, sprintf 'took %.1f s', $took if $took > 4;
    push @wrong, 'the worker has died' unless ($nginx->workers)[0] == $worker;
    # A test that died with the worker has nothing more to see.
    return @wrong if @wrong;
    push @wrong, 'still ' . join ', ', busy(), waiting() unless wait_for { !busy() && !waiting() };
    my $log = log_since();
    push @wrong, "log: $1" if $log =~ /(\[alert\].*)/;
    push @wrong, "$failed failures and no line" if $failed && $log !~ /malloc\(\) failed|no memory to show/ && "@got" ne $expected;
    $before->();
    my $again = join ' ', $run->();
    push @wrong, "afterwards $again" if $again ne $expected;
    return @wrong;
}

$_->[1]->(), $_->[2]->() for @scenarios;
drop();
wait_for { !$status->json->{upstreams}{tls}{keepalive} };
my $descriptors = $nginx->descriptors;

for my $scenario (@scenarios) {
    my ($title, $before, $run, $expected, $others) = @$scenario;
    my $began = time;
    $before->();
    set_order(0, 0);
    my $got = join ' ', $run->();
    # What ends after the answer counts as well.
    wait_for { !busy() && !waiting() } if $title !~ /^status/;
    set_order(0, 0);
    is $got, $expected, "$title: without failures" or next;
    $before->();
    set_order(0, 0);
    $run->();
    sleep 0.02;
    my ($number) = counted();
    my @wrong;
    for my $first (1 .. $number) {
        push @wrong, map { "allocation $first: $_" } consequences(@$scenario[1 .. 4], $first, $first);
        last if @wrong && "@wrong" =~ /died/;
        push @wrong, map { "from allocation $first on: $_" } consequences(@$scenario[1 .. 4], $first, $FOR_EVER);
        last if @wrong && "@wrong" =~ /died/;
    }
    is join("\n", @wrong), '', "$title: $number allocations, each may fail";
    note sprintf '%s: %.1f s', $title, time - $began;
    last if ($nginx->workers)[0] != $worker;
}

drop();
ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left behind'
    or diag $nginx->descriptors . " instead of $descriptors";
is join(', ', $nginx->workers), $worker, 'the worker is the one that was started';
$status->consistent('the numbers agree with each other');
$nginx->stop;

# While the configuration is read: it is refused, with a line that says why, or used without what there was no memory for.
my $tested = Keepalive::Nginx->new(http => $http);
set_order(0, 0);
my ($accepted, $output) = $tested->test;
ok $accepted, 'the configuration is accepted' or diag $output;
my ($number) = counted();
my (@wrong, %seen);
for my $first (1 .. $number) {
    set_order($first, $first);
    my $said = `@{[ $tested->command('test.log') ]} -t 2>&1`;
    $seen{$?}++;
    push @wrong, "allocation $first: exit status $?" if $? != 0 && $? != 256;
    push @wrong, "allocation $first: no line: $said" if $said !~ /\[(?:emerg|crit)\].*(?:malloc\(\) failed|no memory|max_conns)/;
}
set_order(0, 0);
is join("\n", @wrong), '', "nginx -t: $number allocations, each may fail";
note join ', ', map { 'status ' . ($_ >> 8) . ': ' . $seen{$_} } sort keys %seen;

# What is made of many upstreams uses up what was to spare before.
$tested = Keepalive::Nginx->new(http => join "\n", map { "upstream u$_ { server 127.0.0.1:$nobody; keepalive 2; }" } 1 .. 100);
set_order(0, 0);
$tested->test;
($number) = counted();
@wrong = ();
for my $first ($number - 20 .. $number) {
    set_order($first, $first);
    my $said = `@{[ $tested->command('test.log') ]} -t 2>&1`;
    push @wrong, "allocation $first: exit status $?: $said" if $? != 0 && $? != 256;
}
set_order(0, 0);
is join("\n", @wrong), '', "nginx -t of 100 upstreams: the last of $number allocations";

# A reload: the workers that are there serve on, whatever becomes of the new ones.
$nginx = Keepalive::Nginx->new(http => $http)->start;
$nginx->allow(qr/malloc\(\) failed, as a test wants it|no memory|max_conns|keepalive: other workers/);
my $master = $nginx->pid;
@wrong = ();
set_order(0, 0);
my ($before) = $nginx->workers;
$nginx->signal('HUP');
wait_for { my @workers = $nginx->workers; @workers == 1 && $workers[0] != $before };
($number) = counted();
for my $first (grep { $_ % 16 == 0 || $_ > $number - 8 } 1 .. $number) {
    log_since_reload();
    set_order($first, $first);
    ($before) = $nginx->workers;
    $nginx->signal('HUP');
    my $new;
    wait_for { my @workers = $nginx->workers; $new = @workers == 1 && $workers[0] != $before; $new || log_has_refusal() };
    set_order(0, 0);
    push @wrong, "allocation $first: the master has died" if !Keepalive::Nginx::is_alive($master);
    my $got = get($port, '/pool')->{status};
    push @wrong, "allocation $first: status $got" if $got != 200;
    last if @wrong;
}
is join("\n", @wrong), '', "reload: some of $number allocations fail";
$nginx->stop;

# A worker that takes the place of one that was killed: it may count nothing, but of the other one nothing stays.
$nginx = Keepalive::Nginx->new(http => $http)->start;
$nginx->allow(qr/malloc\(\) failed, as a test wants it|no memory|exited on signal 9|keepalive: other workers/);
$status = Keepalive::Status->new($port);
drop();
get($port, '/pool');
is $status->json->{upstreams}{pool}{keepalive}, 1, 'an idle connection';
($before) = $nginx->workers;
set_order(1, $FOR_EVER);
kill KILL => $before;
ok wait_for { my @workers = $nginx->workers; @workers == 1 && $workers[0] != $before && $nginx->error_log =~ /no memory to count in/ },
    'another worker comes, and has no memory to count in';
set_order(0, 0);
is get($port, '/pool')->{status}, 200, 'it serves';
is $status->json->{upstreams}{pool}{keepalive}, 0, 'the idle connection of the one before is gone';
$nginx->stop;

my $reload_at;
sub log_since_reload { $reload_at = length $nginx->error_log }
# The master has read the configuration, and refused it: the present worker stays.
sub log_has_refusal { return substr($nginx->error_log, $reload_at // 0) =~ /\[emerg\]/ }

done_testing;
