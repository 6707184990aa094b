# http2: reload, QUIT, limits and timeouts count streams where they mean requests, and connections where they mean those.
#
# faults: F14.1 "reload: all are answered" "reload without http2: all are answered"
# faults: F14.2 "QUIT: all are answered"
# faults: F11.1 "keepalive_requests: seven requests on each connection" "keepalive_requests, many at once: all are answered"
# faults: F11.2 "keepalive_timeout: it is closed when it has been idle" "keepalive_time: no request is lost"
# faults: F12.2 "max_conns: three at a time, however they end"
# faults: F13.1 "queue: three at a time, and all are answered"
# faults: F9.4 "clients that leave: the connection stays"
# faults: F16.1 "a timeout is that of one request"
# faults: F22.2 "the places are free again" "max_conns: three at a time, however they end"
# faults: F22.5 "a timeout: the others are answered"
# faults: F22.6 "least_conn: requests count, not connections"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;
use Keepalive::Streams;

needs_module();

my $server = Keepalive::Streams->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my ($first, $second) = map { 'server ' . $server->address($_) } 0, 1;
my $port = free_port();
my %upstream = (
    plain    => "$first; keepalive 4; http2 on connections=1;",
    timeout  => "$first; keepalive 4; keepalive_timeout 500ms; http2 on;",
    requests => "$first; keepalive 4; keepalive_requests 7; http2 on;",
    time     => "$first; keepalive 4; keepalive_time 300ms; http2 on;",
    limited  => "$first max_conns=3; keepalive 4; http2 on;",
    queued   => "$first max_conns=3; keepalive 4; queue 100 timeout=20s; http2 on;",
    streams  => "$first; keepalive 4; http2 on streams=5 connections=1;",
    waiting  => "$first; keepalive 4; queue 2 timeout=300ms; http2 on streams=1 connections=1;",
    one      => "$first; $second; keepalive 1; http2 on;",
    least    => "least_conn; $first; $second; keepalive 4; http2 on;",
    none     => "$first; http2 on;",
);
my $blocks = join '', map { "upstream $_ { $upstream{$_} }\n" } sort keys %upstream;
my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %upstream;
my $http = <<"END";
$proxy_keepalive
proxy_connect_timeout 10s;
$blocks
server {
    listen 127.0.0.1:$port;
    location = /settled { return 200; }
    location = /status { keepalive_status; }
    location /hasty { proxy_read_timeout 300ms; proxy_pass http://plain; }
    location /patient { proxy_ignore_client_abort on; proxy_pass http://plain; }
    location /upgrade { proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection "upgrade"; proxy_pass http://plain; }
    location /ntlm { proxy_pass http://plain; }
    $locations
}
END
my $nginx = Keepalive::Nginx->new(connections => 4096, http => $http)->start;

sub anew {
    $server->drop;
    wait_for { !grep { $server->stats($_)->{open} } 0, 1 } or die 'connections stay open';
    settle($port);
    $server->reset;
}

sub connection_of { $_[0]{headers}{'x-connection'} // '-' }

# keepalive_timeout: a connection with a stream is in use.
{
    my $long = begin($port, '/timeout?delay=1500');
    sleep 0.1;
    get($port, '/timeout');
    is $long->finish->{status}, 200, 'keepalive_timeout: it does not run while there is a stream';
    sleep 0.2;
    is connection_of(get($port, '/timeout')), 1, 'keepalive_timeout: it begins with the last stream';
    ok wait_for { !$server->stats->{open} }, 'keepalive_timeout: it is closed when it has been idle';
    cmp_ok(($server->carriers)[0]{frames}{goaway}, '<=', 1, 'with a goodbye at most');
}

# keepalive_requests.
{
    anew();
    my @connections = map { connection_of(get($port, '/requests')) } 1 .. 21;
    is "@connections", join(' ', map { ($_) x 7 } 1 .. 3), 'keepalive_requests: seven requests on each connection';
    anew();
    is statuses(map { begin($port, "/requests?delay=50&n=$_") } 1 .. 100), '200 x 100',
        'keepalive_requests, many at once: all are answered';
    my @served = map { $_->{streams} } $server->carriers;
    is scalar(grep { $_ > 7 } @served), 0, 'keepalive_requests, many at once: none has more';
    cmp_ok scalar(@served), '>=', 15, 'by as many connections as are necessary';
    ok wait_for { $server->stats->{open} <= 2 }, 'those that are used up are closed';
}

# A carrier is one connection, active while it has streams.
{
    anew();
    my $status = Keepalive::Status->new($port);
    my $connections = sub {
        my $metrics = $status->metrics;
        my %labels = (upstream => 'plain', server => $server->address(0));
        return join ' ', map { $metrics->{Keepalive::Status::sample('nginx_upstream_keepalive_connections', %labels, state => $_)} }
            qw(idle active);
    };
    my @requests = map { begin($port, "/plain?delay=500&n=$_") } 1 .. 5;
    ok wait_for { $connections->() eq '0 1' }, 'connections: one is active while it has streams';
    $_->finish for @requests;
    is $connections->(), '1 0', 'connections: it is idle without them';
    get($port, '/plain') for 1 .. 3;
    is $connections->(), '1 0', 'connections: the same, however many they were';
    $server->drop;
    ok wait_for { $connections->() eq '0 0' }, 'connections: none is left when it ends';
}

# keepalive_time.
{
    anew();
    my $load = Keepalive::Load->start($port, clients => 4, request => sub { '/time?delay=20' });
    sleep 2;
    my ($answers, @failures) = $load->stop;
    is "@failures", '', 'keepalive_time: no request is lost';
    cmp_ok scalar($server->carriers), '>=', 4, 'keepalive_time: connections are replaced';
    cmp_ok scalar($server->carriers), '<=', 16, 'keepalive_time: now and then';
}

# max_conns counts requests, and each way to end gives the place back.
{
    anew();
    my @ends = (
        'delay=1', 'fault=refuse', 'fault=reset&at=header', 'fault=goaway', 'fault=goaway&last=at', 'fault=close&at=body&len=10',
        'fault=abort', 'early=1&status=403', 'frames=1.5.s.80', 'frames=6.0.0.00', 'status=204', 'len=100000&fault=reset&at=body',
    );
    for my $round (1 .. 3) {
        for my $script (@ends) {
            get($port, "/limited?$script", method => 'POST', body => 'x');
            begin($port, "/limited?delay=300&$script", method => 'POST', body => 'x')->abort;
            begin($port, "/limited?len=5000000&$script")->abort;
        }
    }
    # A failed server would be out of service for a while.
    sleep 1;
    ok wait_for { get($port, '/limited')->{status} == 200 }, 'max_conns: the server is in service';
    anew();
    my @requests = map { begin($port, "/limited?delay=600&n=$_") } 1 .. 6;
    is statuses(@requests), '200 x 3, 502 x 3', 'max_conns: three at a time, however they end';
    is $server->http2->{max_open}, 3, 'max_conns: the server has seen three streams';
    anew();
    is statuses(map { begin($port, "/queued?delay=100&n=$_") } 1 .. 30), '200 x 30', 'queue: three at a time, and all are answered';
    is $server->http2->{max_open}, 3, 'queue: never more than three streams';
}

# No stream is free: they wait, in the queue if there is one.
{
    anew();
    is statuses(map { begin($port, "/streams?delay=200&n=$_") } 1 .. 50), '200 x 50', 'five streams for fifty requests';
    is join(' ', $server->http2->{max_open}, scalar $server->carriers), '5 1', 'never more, over one connection';
    for (1 .. 3) {
        my @leaving = map { begin($port, "/streams?delay=5000&n=$_") } 1 .. 20;
        ok wait_for { $server->http2->{open} == 5 }, 'all streams are taken, and others wait';
        $_->abort for @leaving;
        ok wait_for { $server->http2->{open} == 0 }, 'they leave';
    }
    is statuses(map { begin($port, "/streams?delay=20&n=$_") } 1 .. 20), '200 x 20', 'the places are free again';
    is scalar($server->carriers), 1, 'clients that leave: the connection stays';
    cmp_ok(($server->carriers)[0]{frames}{rst_stream}, '>=', 15, 'the server was told');
    $server->rules_are_kept('clients that leave');
}

# keepalive: how many connections without a stream are kept.
{
    anew();
    my @requests = map { begin($port, "/one?delay=100&n=$_") } 1 .. 10;
    $_->finish for @requests;
    ok wait_for { 1 == $server->stats(0)->{open} + $server->stats(1)->{open} }, 'keepalive 1: one idle connection is kept';
    anew();
    is statuses(map { begin($port, "/least?delay=100&n=$_") } 1 .. 20), '200 x 20', 'least_conn: all are answered';
    is join(' ', map { $server->http2($_)->{max_open} } 0, 1), '10 10', 'least_conn: requests count, not connections';
    anew();
    is statuses(map { begin($port, "/none?delay=20&n=$_") } 1 .. 5), '200 x 5', 'without keepalive: all are answered';
}

# A timeout, or a client that leaves, is the end of a stream.
{
    anew();
    my @others = map { begin($port, "/plain?delay=900&n=$_") } 1 .. 5;
    is get($port, '/hasty?delay=5000')->{status}, 504, 'a timeout is that of one request';
    is statuses(@others), '200 x 5', 'a timeout: the others are answered';
    is connection_of(get($port, '/plain')), 1, 'a timeout: the connection is the same';
    begin($port, '/patient?delay=300&id=patient')->abort;
    ok wait_for { $server->stats->{ids} == 1 }, 'proxy_ignore_client_abort: the request goes on';
    is connection_of(get($port, '/plain')), 1, 'a client that leaves: the connection is the same';
}

# What cannot be a stream has a connection of its own.
{
    anew();
    get($port, '/plain');
    my $request = begin($port, '/upgrade?upgrade=1', keep_alive => 1, headers => ['Upgrade: echo', 'Connection: upgrade']);
    like $request->receive, qr{^HTTP/1\.1 101 }, 'an upgrade: the protocol is switched';
    $request->more('hello');
    is $request->receive, 'hello', 'an upgrade: both sides talk';
    is get($port, '/plain')->{status}, 200, 'an upgrade: streams go on';
    $request->abort;
    is get($port, '/ntlm', headers => { Authorization => 'NTLM TlRMTVNTUAAB' })->{status}, 200, 'NTLM is answered';
    is join(' ', scalar $server->carriers, scalar $server->ordinary), '1 2', 'each by a connection of HTTP/1.1';
}

# Reload and QUIT.
for my $round (1, 2) {
    anew();
    my @requests = map { begin($port, "/plain?delay=1500&len=100000&n=$_") } 1 .. 50;
    ok wait_for { $server->http2->{open} == 50 }, 'fifty streams';
    $nginx->configure(http => $http =~ s/ http2 on[^;]*;//gr) if $round == 2;
    $nginx->reload;
    # Until the old worker knows of it, it takes requests too.
    sleep 0.5;
    is get($port, '/plain')->{status}, 200, 'the new worker has connections of its own';
    is statuses(@requests), '200 x 50', $round == 1 ? 'reload: all are answered' : 'reload without http2: all are answered';
    ok wait_for { 1 == $nginx->workers }, 'the old worker exits';
    ok wait_for { $server->stats->{open} == 1 }, 'and its connections with it';
}
is scalar($server->ordinary), 1, 'without http2: HTTP/1.1';
$nginx->configure(http => $http);
$nginx->reload;
{
    my $load = Keepalive::Load->start($port, clients => 4, request => sub { '/plain?delay=10&len=1000' });
    for (1 .. 3) {
        $load->wait_for_more(20);
        $nginx->reload;
    }
    my ($answers, @failures) = $load->stop;
    is "@failures", '', "reloads under load: none of $answers requests failed";
}
wait_for { 1 == $nginx->workers };
anew();
my @requests = map { begin($port, "/plain?delay=700&len=100000&n=$_") } 1 .. 50;
ok wait_for { $server->http2->{open} == 50 }, 'fifty streams';
$nginx->signal('QUIT');
is statuses(@requests), '200 x 50', 'QUIT: all are answered';
ok wait_for { !$server->stats->{open} }, 'QUIT: the connection is closed';
$nginx->stop;
$server->rules_are_kept;
done_testing;
