# A `zone` and max_conns, several workers: a connection that is released goes to the worker whose request waits for it, and is not
# closed.
#
# faults: F12.2 "one limit for all workers"
# faults: F13.1 "the one that has waited longest gets the connection"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my ($port, $secure) = map { free_port() } 1 .. 2;
my $server = 'server ' . $backend->address;
my $four = "$server max_conns=4; keepalive 4; keepalive_requests 100000;";

sub nginx {
    my ($workers, $upstreams, %options) = @_;
    $backend->reset;
    return handover_nginx($port, $upstreams, workers => $workers, %options)->start;
}

# Sends so many requests at once, and returns the statuses of their answers.
sub at_once {
    my ($number, $path) = @_;
    return statuses(map { begin($port, "$path&n=$_", timeout => 60) } 1 .. $number);
}

# A request has reached its queue when its worker has nothing else to do; with several of them that takes a moment.
sub begin_all { my @all = map { begin($port, $_, timeout => 60) } @_; sleep 0.1; return @all }

# 'connections accepted, at most open at a time', of one listener of the server or of all together.
sub connections {
    my (@listeners) = @_;
    my @stats = map { $backend->stats($_) } @listeners ? @listeners : 0;
    return join '; ', map { "$_->{accepted} accepted, $_->{max_open} at a time" } @stats;
}

# Tests what the counters of an upstream say when nothing is under way: they agree, and not one connection was closed.
sub none_closed {
    my ($title, $upstream, $opened) = @_;
    my $status = Keepalive::Status->new($port);
    $status->consistent("$title: the counters agree");
    my $told = $status->json->{upstreams}{$upstream};
    is $told->{opened}, $opened, "$title: so many were opened";
    is join(', ', map { "$_ $told->{closed}{$_}" } grep { $told->{closed}{$_} } sort keys %{ $told->{closed} }), '', "$title: none was closed";
    cmp_ok $told->{taken}, '>', 0, "$title: connections were handed over";
    is $told->{taken}, $told->{given}, "$title: each one that was given was taken";
}

# Two thousand, a thousand at once.
{
    my $title = 'four workers';
    my $nginx = nginx(4, { u => "zone u 64k; $four queue 2000 timeout=60s;" });
    is at_once(1000, '/u?delay=3'), '200 x 1000', "$title: a thousand at once" for 1, 2;
    is $backend->stats->{requests}, 2000, "$title: each once";
    is connections(), '4 accepted, 4 at a time', "$title: one limit for all workers, and four connections for all requests";
    none_closed($title, 'u', 4);
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# Five thousand in batches, between which connections are idle.
{
    my $title = 'two workers';
    my $nginx = nginx(2, { u => "zone u 64k; $four queue 1000 timeout=10s;" });
    my %seen;
    $seen{ at_once(100, '/u?delay=1') }++ for 1 .. 50;
    is_deeply \%seen, { '200 x 100' => 50 }, "$title: five thousand in batches are answered";
    is connections(), '4 accepted, 4 at a time', "$title: over four connections";
    none_closed($title, 'u', 4);
    $nginx->stop;
}

# With one connection at a time, connections and requests show the order.
{
    my $title = 'order';
    my $nginx = nginx(4, { u => "zone u 64k; $server max_conns=1; keepalive 1; queue 100 timeout=20s;" });
    my $status = Keepalive::Status->new($port);
    my $held = begin($port, '/u?delay=1500');
    ok wait_for { $backend->stats->{requests} == 1 }, "$title: the server is held";
    # Each begins to wait before the next one is sent, and in another millisecond: workers compare no finer times.
    my @waiting;
    for my $number (1 .. 40) {
        sleep 0.003;
        push @waiting, begin($port, "/u?n=$number");
        wait_for { $status->json->{upstreams}{u}{queue}{size} == $number } or diag "$title: $number do not wait";
    }
    my @answers = map { $_->finish } $held, @waiting;
    is statuses(@answers), '200 x 41', "$title: all are answered";
    my @order = map { carried_by($_) } @answers;
    is_deeply \@order, [map { 100000 + $_ } 1 .. 41], "$title: the one that has waited longest gets the connection";
    none_closed($title, 'u', 1);
    $nginx->stop;
}

# Subrequests that wait.
for my $directive (has_feature('with-http_auth_request_module') ? 'auth_request' : (), 'auth_subrequest') {
    my $title = $directive;
    my $nginx = nginx(4, { authority => "zone authority 64k; $four queue 2000 timeout=60s;" }, http => <<"END", locations => <<"END");
upstream app { server @{[ $backend->address(1) ]}; keepalive 64; }
END
    location /authorised { $directive /allow; proxy_pass http://app; }
    location = /allow {
        internal;
        proxy_pass http://authority/?body=OK&delay=2;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
END
    is at_once(500, '/authorised?'), '200 x 500', "$title: five hundred at once" for 1, 2;
    ok wait_for { !$backend->stats->{busy} }, "$title: the server has nothing more to do";
    is $backend->stats->{requests}, 1000, "$title: each was authorised once";
    is connections(), '4 accepted, 4 at a time', "$title: over four connections";
    none_closed($title, 'authority', 4);
    $nginx->stop;
}

# Several limited servers.
{
    my $title = 'three servers';
    my $servers = join ' ', map { 'server ' . $backend->address($_) . ' max_conns=' . ($_ + 1) . ';' } 0 .. 2;
    my $nginx = nginx(4, { u => "zone u 64k; $servers keepalive 8; keepalive_requests 100000; queue 2000 timeout=60s;" });
    is at_once(500, '/u?delay=3'), '200 x 500', "$title: five hundred at once" for 1, 2;
    is $backend->requests, 1000, "$title: each once";
    is connections(0 .. 2), '1 accepted, 1 at a time; 2 accepted, 2 at a time; 3 accepted, 3 at a time', "$title: as many connections as each allows";
    none_closed($title, 'u', 6);
    $nginx->stop;
}

# A pool that has room for fewer connections than the workers need together.
{
    my $title = 'a small pool';
    my $nginx = nginx(4, { u => "zone u 64k; $server max_conns=4; keepalive 1; keepalive_requests 100000; queue 2000 timeout=60s;" });
    is at_once(500, '/u?delay=3'), '200 x 500', "$title: five hundred at once";
    is $backend->stats->{max_open}, 4, "$title: within the limit";
    diag "$title: " . connections();
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

# No queue: a request has been granted its server, and all connections that the server allows are idle in another worker.
for my $queue ('', 'queue 10 timeout=10s;') {
    my $title = 'idle elsewhere' . ($queue ? '' : ', no queue');
    my $nginx = nginx(4, { u => "zone u 64k; $server max_conns=2; keepalive 4; $queue" });
    my ($first, @others) = clients_of($port, $nginx);
    my $second = (connections_to($port, $first->{pid}, 1))[0];
    my @pair = (begin($port, '/u?delay=100', over => $first->{socket}, keep_alive => 1), begin($port, '/u?delay=100', over => $second, keep_alive => 1));
    is join(' ', map { Keepalive::Client::parse($_->receive)->{status} } @pair), '200 200', "$title: two in the first worker";
    for my $round (1 .. 5) {
        is join(' ', map { ask($_, '/u')->{status} } @others, $first), '200 200 200 200', "$title: each worker in turn, round $round";
    }
    is at_once(2, '/u?delay=100'), '200 x 2', "$title: two at once, in any worker";
    is connections(), '2 accepted, 2 at a time', "$title: over the same two connections";
    none_closed($title, 'u', 2);
    $nginx->stop;
}

# The request that waits cannot use the connection, since its local address differs.
{
    my $title = 'another local address';
    my $nginx = nginx(2, { u => "zone u 64k; $server max_conns=2; keepalive 4; queue 500 timeout=20s;" },
        http => 'map $arg_bind $bound { 1 127.0.0.31; 2 127.0.0.32; default 127.0.0.1; }', inside => 'proxy_bind $bound;');
    my @clients = clients_of($port, $nginx);
    for my $round (1 .. 10) {
        my ($mine, $other) = @clients[$round % 2, 1 - $round % 2];
        is ask($mine, "/u?bind=$round")->{status}, 200, "$title: one worker, round $round" if $round <= 2;
        is ask($other, '/u?bind=1')->{status}, 200, "$title: the other one, round $round";
        is ask($mine, '/u?bind=2')->{status}, 200, "$title: with another address, round $round";
    }
    my @requests = map { begin($port, "/u?delay=2&bind=" . $_ % 3, timeout => 60) } 1 .. 300;
    is statuses(@requests), '200 x 300', "$title: three hundred at once";
    is $backend->stats->{max_open}, 2, "$title: within the limit";
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

# A connection with TLS cannot change workers: it is closed, and the other worker opens one.
SKIP: {
    skip 'nginx has no TLS, or does not count connections', 1
        unless has_feature('with-http_ssl_module') && has_feature('with-http_stub_status_module');
    my $title = 'TLS';
    my ($certificate, $key) = self_signed('localhost');
    # This nginx has connections from clients that use TLS, and from nobody else.
    my $terminator = Keepalive::Nginx->new(log_level => 'warn', http => <<"END")->start;
$proxy_keepalive
upstream u { $server; keepalive 64; }
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    add_header X-Active \$connections_active;
    location / { proxy_pass http://u; }
}
END
    my $limited = "zone %s 64k; server 127.0.0.1:$secure max_conns=4; keepalive 4; queue 500 timeout=60s;";
    my $nginx = nginx(4, { u => sprintf $limited, 'u' }, http => 'upstream secure { ' . sprintf($limited, 'secure') . ' }',
        locations => 'location /secure { proxy_pass https://secure; }');
    my @answers = map { $_->finish } map { begin($port, "/secure?delay=3&n=$_", timeout => 60) } 1 .. 300;
    is statuses(@answers), '200 x 300', "$title: three hundred at once";
    my ($most) = sort { $b <=> $a } map { $_->{headers}{'x-active'} // 0 } @answers;
    is $most, 4, "$title: within the limit";
    my @clients = clients_of($port, $nginx);
    is join(' ', map { ask($_, '/secure')->{status} } @clients, @clients), join(' ', (200) x 8), "$title: each worker in turn";
    my $status = Keepalive::Status->new($port);
    is handed($status->json->{upstreams}{secure}), 'nothing', "$title: nothing was handed over";
    $status->consistent("$title: the counters agree");
    $nginx->stop;
    $terminator->stop;
}

# Switched off.
{
    my $title = 'off';
    my $nginx = nginx(4, { u => "zone u 64k; $four queue 2000 timeout=60s; keepalive_handover off;" });
    is at_once(1000, '/u?delay=3'), '200 x 1000', "$title: a thousand at once";
    is $backend->stats->{max_open}, 4, "$title: within the limit";
    is handed(Keepalive::Status->new($port)->json->{upstreams}{u}), 'nothing', "$title: nothing was handed over";
    diag "$title: " . connections();
    $nginx->stop;
}

# A client that leaves, for whose request the connection was handed over.
{
    my $title = 'clients that leave';
    my $nginx = nginx(4, { u => "zone u 64k; $four queue 2000 timeout=60s;" });
    my $load = Keepalive::Load->start($port, clients => 4, request => sub { '/u?delay=1' });
    for my $round (1 .. 20) {
        my @leave = map { begin($port, "/u?delay=2&n=$_") } 1 .. 20;
        sleep 0.01;
        $_->abort for @leave;
    }
    my ($answers, @failures) = $load->stop;
    is "@failures", '', "$title: none of the $answers others fails";
    is $backend->stats->{max_open}, 4, "$title: within the limit";
    ok wait_for { !$backend->stats->{busy} }, "$title: the server has nothing more to do";
    is at_once(4, '/u?delay=200'), '200 x 4', "$title: all four places are there";
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

done_testing;
