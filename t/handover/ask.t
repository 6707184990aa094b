# A request finds no idle connection in its worker: another worker that has one gives it, within moments.
#
# faults: F10.1 "another local address does not get it"
# faults: F10.2 "another upstream does not get it" "TLS: another worker opens its own"
# faults: F16.1 "proxy_read_timeout rules on a connection from another worker"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Http2;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue qw(connections_to);
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

open my $interfaces, '<', '/proc/net/if_inet6';
my $has_ipv6 = $interfaces && grep { /^0{31}1 .* lo$/ } <$interfaces>;
my $socket = work_dir() . '/socket';
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2, "unix:$socket", $has_ipv6 ? '[::1]:0' : ()]);
my $fastcgi = Keepalive::Backend->start(protocol => 'fastcgi');
my $has_http2 = has_feature('with-http_v2_module');
my $grpc = $has_http2 && Keepalive::Http2->start('');
my $has_tls = has_feature('with-http_ssl_module');
my ($port, $secure) = map { free_port() } 1 .. 2;
my $pool = 'server ' . $backend->address . '; keepalive 8;';

sub nginx {
    my ($workers, $upstreams, %options) = @_;
    $backend->drop;
    ok wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 }, 'no connection is open';
    $backend->reset;
    return handover_nginx($port, $upstreams, workers => $workers, %options)->start;
}

# The idle connections of all workers are closed.
sub afresh {
    $backend->drop;
    wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 };
    settled();
    $backend->reset;
}

# Tests $upstream_keepalive_status of requests to /name: expect('name', 'MISS TAKEN', 'title', $client, $other).
sub expect {
    my ($name, $expected, $title, @clients) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return in_turn(\&afresh, $expected, $title, map { [$_, "/$name"] } @clients);
}

# A request every 100 ms, by new clients.
for my $listen ('reuseport', '') {
    my $title = $listen || 'one socket for all workers';
    my $nginx = nginx(4, { u => $pool }, listen => $listen);
    my ($first, @others) = map { settled(); ask($port, '/u') } 1 .. 20;
    my $late = grep { is_late($_) } @others;
    is $backend->stats->{accepted}, 1 + $late, "$title: one connection in all";
    diag "$title: $late came late" if $late;
    my %told;
    $told{ $_->{status} == 200 ? $_->{told} : $_->{status} }++ for @others;
    is join(' ', grep { !/^(?:MISS|HIT|TAKEN)$/ } keys %told), '', "$title: it is here or there";
    # Without reuseport, the same worker may have all clients.
    cmp_ok $told{TAKEN}, '>', 0, "$title: other workers have taken it" if $listen;
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

# A server that closes idle connections sooner than a single worker has its next request.
{
    my $title = 'an impatient server';
    my $nginx = nginx(4, { u => $pool });
    my @clients = clients_of($port, $nginx);
    my $requests = 40;
    my @answers = map { sleep 0.12; ask($clients[$_ % 4], '/u?idle=400') } 1 .. $requests;
    my $reused = grep { $_->{told} =~ /TAKEN|HIT/ || is_late($_) } @answers;
    cmp_ok $reused, '>=', 0.95 * $requests, "$title: $reused of $requests requests are sent on a connection that was used before";
    $nginx->stop;
}

# What is not the same is not handed over; `local` is for the locations.
{
    my $nginx = nginx(2, { u => $pool, other => $pool, off => "$pool keepalive_handover off;",
        local => "$pool keepalive_handover on;" =~ s/keepalive 8/keepalive 8 local/r, none => $pool =~ s/keepalive 8/keepalive 0/r,
        two => 'server ' . $backend->address(1) . "; $pool" },
        http => 'map $arg_bind $bound { 1 127.0.0.31; 2 127.0.0.32; default ""; }', inside => 'proxy_bind $bound;',
        locations => 'location /same { add_header X-Told $upstream_keepalive_status; proxy_pass http://u; }
            location /elsewhere { add_header X-Told $upstream_keepalive_status; proxy_pass http://local; }');
    my ($here, $there) = clients_of($port, $nginx);
    my $both = sub { my ($expected, $title, @requests) = @_; in_turn(\&afresh, $expected, $title, @requests) };
    expect('u', 'MISS TAKEN HIT TAKEN', 'back and forth', $here, $there, $there, $here);
    afresh();
    $both->('MISS TAKEN', 'another location gets it', [$here, '/u'], [$there, '/same']);
    afresh();
    $both->('MISS MISS TAKEN TAKEN', 'another upstream does not get it', [$here, '/u'], [$there, '/other'], [$there, '/u'], [$here, '/other']);
    afresh();
    $both->('MISS MISS TAKEN HIT', 'another local address does not get it', [$here, '/u'], [$there, '/u?bind=1'], [$here, '/u?bind=1'], [$here, '/u']);
    afresh();
    $both->('MISS MISS MISS', 'nor does a third one', [$here, '/u?bind=1'], [$there, '/u?bind=2'], [$there, '/u?bind=3']);
    expect('local', 'MISS TAKEN TAKEN', 'local: the same location gets it', $here, $there, $here);
    afresh();
    $both->('MISS MISS TAKEN', 'local: another location does not get it', [$here, '/local'], [$there, '/elsewhere'], [$here, '/elsewhere']);
    expect('off', 'MISS MISS HIT HIT', 'off: each worker has its own', $here, $there, $here, $there);
    expect('none', 'BYPASS BYPASS', 'no pool', $here, $there);
    expect('two', 'MISS MISS TAKEN TAKEN', 'two servers: both connections are handed over', $here, $here, $there, $there);
    $nginx->stop;
}

# Kinds of connections.
{
    my %upstreams = (unix => 'server ' . $backend->address(2) . '; keepalive 8;', ipv4 => $pool,
        $has_ipv6 ? (ipv6 => 'server ' . $backend->address(3) . '; keepalive 8;') : (), small => $pool =~ s/keepalive 8/keepalive 1/r,
        per_server => $pool =~ s/keepalive 8/keepalive 1 per_server/r, least => "least_conn; $pool", hashed => "hash \$arg_key; $pool",
        zone => "zone zone 64k; $pool", bound => "$pool ntlm;");
    my ($tls, @secure) = ('', '');
    if ($has_tls) {
        my ($certificate, $key) = self_signed('localhost');
        $tls = "server { listen 127.0.0.1:$secure ssl; ssl_certificate $certificate; ssl_certificate_key $key;"
            . ' return 200 "connection $connection request $connection_requests"; }';
    }
    my $told = 'add_header X-Told $upstream_keepalive_status always;';
    my $nginx = nginx(2, \%upstreams, http => <<"END" . $tls, locations => <<"END");
upstream fast { server @{[ $fastcgi->address ]}; keepalive 8; }
upstream rpc { server 127.0.0.1:@{[ $grpc ? $grpc->{port} : 1 ]}; keepalive 8; }
upstream secure { server 127.0.0.1:$secure; keepalive 8; }
END
    location /fast {
        fastcgi_pass fast;
        fastcgi_keep_conn on;
        fastcgi_param REQUEST_METHOD \$request_method;
        fastcgi_param QUERY_STRING \$query_string;
        $told
    }
    @{[ $grpc ? "location /rpc { grpc_pass grpc://rpc; $told }" : '' ]}
    @{[ $grpc && version_at_least('1.29.4') ? "location /h2 { proxy_http_version 2; proxy_pass http://rpc; $told }" : '' ]}
    @{[ $has_tls ? "location /secure { proxy_pass https://secure; $told }" : '' ]}
END
    my ($here, $there) = clients_of($port, $nginx);
    my @in_turn = ($here, $there, $here);
    expect($_, 'MISS TAKEN TAKEN', "$_: handed over", @in_turn) for grep { $_ ne 'bound' } sort keys %upstreams;
    in_turn(sub { $fastcgi->drop; settled() }, 'MISS TAKEN TAKEN', 'FastCGI: handed over', map { [$_, '/fast'] } @in_turn);
    # One client's connection with its user stays with that client.
    is ask($here, '/bound?login=1', headers => { Authorization => 'NTLM hello' })->{status}, 401, 'ntlm: the challenge';
    is ask($here, '/bound?login=1', headers => { Authorization => 'NTLM user:alice' })->{status}, 200, 'ntlm: Alice logs in';
    expect('bound?login=1', '401 MISS', 'ntlm: another client, in another worker, gets a new connection', $there);
    like ask($here, '/bound?login=1')->{body}, qr/alice/, 'ntlm: Alice still has hers';
    SKIP: {
        skip 'nginx has no TLS', 1 unless $has_tls;
        expect('secure', 'MISS MISS HIT', 'TLS: another worker opens its own', @in_turn);
    }
    SKIP: {
        skip 'nginx has no HTTP/2', 1 unless $grpc;
        expect('rpc', 'MISS MISS HIT', 'gRPC: another worker opens its own', @in_turn);
        skip 'proxying by HTTP/2 needs 1.29.4', 1 unless version_at_least('1.29.4');
        expect('h2', 'MISS MISS HIT', 'HTTP/2: another worker opens its own', @in_turn);
    }
    my $status = Keepalive::Status->new($port);
    is handed($status->json->{upstreams}{$_}), 'nothing', "$_: nothing was handed over" for 'bound', $has_tls ? 'secure' : (), $grpc ? 'rpc' : ();
    $status->consistent('kinds: the counters agree');
    $nginx->stop;
}

# What counts for a connection goes with it.
{
    my $nginx = nginx(4, { counted => "$pool keepalive_requests 10;", aged => "$pool keepalive_time 600ms;", u => $pool }, inside => 'proxy_read_timeout 300ms;');
    my @clients = clients_of($port, $nginx);
    my @carried;
    for my $attempt (1 .. 5) {
        afresh();
        @carried = map { settled(); ask($clients[$_ % 4], '/counted') } 0 .. 24;
        last unless grep { is_late($_) && $_->{headers}{'x-connection'} != 1 + int(($_->{headers}{'x-request'} - 1) / 10) } @carried;
    }
    is_deeply [map { "$_->{headers}{'x-connection'}:$_->{headers}{'x-request'}" } @carried],
        [(map { "1:$_" } 1 .. 10), (map { "2:$_" } 1 .. 10), map { "3:$_" } 1 .. 5],
        'keepalive_requests 10: a connection has ten requests, of four workers';

    afresh();
    my $begun = time;
    my @answers = map { settled(); ask($clients[$_ % 4], '/aged') } 1 .. 20;
    # That took more than a second and a half.
    my $accepted = $backend->stats->{accepted};
    cmp_ok $accepted, '>=', 2, "keepalive_time 600ms: $accepted connections";
    cmp_ok $accepted, '<=', 2 + (time - $begun) / 0.6 + grep({ is_late($_) } @answers), 'keepalive_time 600ms: and no more than that';
    cmp_ok scalar(grep { $_->{told} eq 'TAKEN' } @answers), '>', 5, 'keepalive_time 600ms: they are handed over';

    my @first = ([$clients[0], '/u'], [$clients[1], '/u']);
    my $then = sub { my ($expected, $title, @requests) = @_; afresh(); in_turn(\&afresh, "MISS TAKEN $expected", $title, @first, @requests) };
    $then->('504 TAKEN MISS TAKEN', 'proxy_read_timeout rules on a connection from another worker',
        [$clients[2], '/u?fault=hang&at=start'], [$clients[3], '/u'], [$clients[0], '/u']);
    $then->('TAKEN', 'an answer in time', [$clients[2], '/u?delay=100']);
    $then->('TAKEN', 'a large request', [$clients[2], '/u', method => 'POST', body => 'x' x 300000]);
    $then->('TAKEN MISS TAKEN', 'the server closes it after this answer', [$clients[2], '/u?header=Connection:close'],
        [$clients[3], '/u'], [$clients[0], '/u']);
    settled();
    my $answer = get($port, '/u?len=3000000');
    is "$answer->{status} " . length $answer->{body}, '200 3000000', 'a large answer';
    Keepalive::Status->new($port)->consistent('what counts: the counters agree');
    $nginx->stop;
}

# Under load a worker has connections of its own.
{
    my $title = 'under load';
    my $nginx = nginx(4, { u => $pool });
    my $load = Keepalive::Load->start($port, clients => 8, request => sub { '/u' });
    ok $load->wait_for_more(3000), "$title: three thousand requests";
    my ($answers, @failures) = $load->stop;
    is "@failures", '', "$title: none fails";
    my $status = Keepalive::Status->new($port);
    my $asked = $status->json->{upstreams}{u}{handover}{asked};
    cmp_ok $asked, '<', $answers / 20, "$title: $asked questions for $answers requests";
    $status->consistent("$title: the counters agree");
    $nginx->stop;
}

# A worker that hangs is asked once by each of the others.
{
    my $title = 'a stopped worker';
    my $nginx = nginx(4, { u => $pool });
    my ($stopped, @others) = clients_of($port, $nginx);
    is ask($stopped, '/u')->{told}, 'MISS', "$title: it has a connection";
    settled();
    kill STOP => $stopped->{pid};
    my $begun = time;
    my %seen;
    $seen{ ask($others[$_ % 3], '/u')->{status} }++ for 1 .. 100;
    my $took = time - $begun;
    kill CONT => $stopped->{pid};
    is_deeply \%seen, { 200 => 100 }, "$title: a hundred requests in the others are answered";
    cmp_ok $took, '<', 2, "$title: without much delay";
    diag sprintf '%s: %.3f s', $title, $took;
    is ask($stopped, '/u')->{status}, 200, "$title: it goes on";
    is join(' ', map { settled(); ask($_, '/u')->{status} } $stopped, @others), '200 200 200 200', "$title: so do all";
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

# A client that leaves while its request waits for the answer of a worker.
{
    my $title = 'a client that leaves';
    my $nginx = nginx(2, { u => $pool });
    my ($stopped, $other) = clients_of($port, $nginx);
    my @leaving = connections_to($port, $other->{pid}, 3);
    for my $round (1 .. 3) {
        ask($stopped, '/u');
        settled();
        kill STOP => $stopped->{pid};
        begin($port, '/u', over => shift @leaving)->abort;
        is ask($other, '/u')->{status}, 200, "$title: the next one is answered, round $round";
        kill CONT => $stopped->{pid};
        is ask($stopped, '/u')->{status}, 200, "$title: and one in the worker that was asked, round $round";
    }
    Keepalive::Status->new($port)->consistent("$title: the counters agree");
    $nginx->stop;
}

done_testing;
