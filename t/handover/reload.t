# A reload: the new workers take over the idle connections of the old ones: those that are not used, those that they ask for, and
# all others when the old ones exit, or later when their requests end; as far as the new configuration has a use for them.
#
# faults: F14.1 "the module is there again: it takes over connections"
# faults: F21.5 "$title: what was handed over" "a server was removed, and an upstream renamed: their connections are closed"

use strict;
use warnings;

use List::Util qw(sum0);
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $socket = work_dir() . '/socket';
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2, "unix:$socket"]);
my ($port, $secure) = map { free_port() } 1 .. 2;
my ($server, $other) = map { 'server ' . $backend->address($_) . ';' } 0, 1;
my $pool = 'keepalive 8; keepalive_timeout 1h;';
my $status = Keepalive::Status->new($port);
my $nginx;

# A configuration with these upstreams; each is called by its name.
sub http {
    my ($upstreams, $http) = @_;
    my $blocks = join '', map { "upstream $_ { $upstreams->{$_} }\n" } sort keys %$upstreams;
    my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %$upstreams;
    return <<"END";
$proxy_keepalive
$blocks
@{[ $http // '' ]}
server {
    listen 127.0.0.1:$port reuseport;
    add_header X-Told \$upstream_keepalive_status;
    location = /settled { return 200 settled; }
    location = /pid { return 200 \$pid; }
    location = /status { keepalive_status; }
    $locations
}
END
}

sub start {
    my ($workers, $upstreams, $http) = @_;
    $nginx = Keepalive::Nginx->new(workers => $workers, log_level => 'warn', http => http($upstreams, $http))->start;
    $backend->reset;
}

sub stop {
    $status->consistent('the counters agree') if $nginx->{module} && $nginx->{http} =~ /location \/u /;
    $nginx->stop;
    ok wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 }, 'no connection is left';
}

sub reload { my (%changes) = @_; $nginx->configure(%changes) if %changes; local $Test::Builder::Level = $Test::Builder::Level + 1; reload_to_end($nginx) }

# So many requests at once in each worker; each needs a connection of its own.
sub each_worker {
    my ($number, $path) = @_;
    my @requests;
    for my $pid ($nginx->workers) {
        push @requests, map { begin($port, "$path?delay=100", over => $_) } connections_to($port, $pid, $number);
    }
    return statuses(@requests);
}

# Tests that the workers have so many connections: '4 4', or '8' in all. They come a moment after the old workers have ended.
sub idle {
    my ($expected, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $idle;
    wait_for {
        my @idle = idle_in($backend->port, $nginx->workers);
        ($idle = $expected =~ / / ? "@idle" : sum0(@idle)) eq $expected;
    };
    return is $idle, $expected, $title;
}

# Tests that the connections to these listeners become so many.
sub open_now {
    my ($expected, $title, @listeners) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $open;
    wait_for { ($open = join ' ', map { $backend->stats($_)->{open} } @listeners ? @listeners : 0) eq $expected };
    return is $open, $expected, $title;
}

# One reload after the other.
for my $workers (1, 4) {
    my $title = $workers == 1 ? 'one worker' : "$workers workers";
    my $each = 8 / $workers;
    start($workers, { u => "$server $pool" });
    is each_worker($each, '/u'), '200 x 8', "$title: eight at once";
    is $backend->stats->{accepted}, 8, "$title: eight connections";
    for my $round (1 .. 3) {
        reload();
        idle(join(' ', ($each) x $workers), "$title, reload $round: the new workers have them");
        become($status, 'u', 'given ' . 8 * $round . ', taken ' . 8 * $round, "$title, reload $round: each was given and taken");
        is each_worker($each, '/u'), '200 x 8', "$title, reload $round: eight at once";
        is $backend->stats->{accepted}, 8, "$title, reload $round: no new connection";
    }
    is $status->json->{upstreams}{u}{opened}, 8, "$title: so say the counters";
    stop();
}

# Another number of workers.
{
    start(4, { u => "$server $pool" });
    is each_worker(2, '/u'), '200 x 8', 'four workers, then one: eight connections';
    reload(workers => 1);
    idle(8, 'four workers, then one: it has them all');
    is each_worker(8, '/u'), '200 x 8', 'four workers, then one: eight at once';
    reload(workers => 3);
    idle(8, 'three workers: they have them all');
    is join(' ', map { get($port, '/u')->{status} } 1 .. 30), join(' ', (200) x 30), 'three workers: thirty requests';
    reload(workers => 3);
    idle($backend->stats->{open}, 'three workers again: they have all that are open');
    open_now($backend->stats->{accepted}, 'no connection was closed');
    stop();
}

# What the new configuration has a use for. Each: the old upstream, the new one, what is said of the eight connections, how many
# of them stay, and perhaps what another upstream has.
my $local = $pool =~ s/keepalive 8/keepalive 8 local/r;
for my $case (
    ['a smaller pool',         "$server $pool", "$server keepalive 3; keepalive_timeout 1h;", 'given 8, taken 8', 3],
    ['a larger pool',          "$server $pool", "$server keepalive 64; keepalive_timeout 1h;", 'given 8, taken 8', 8],
    ['a pool per server',      "$server $pool", "$server keepalive 2 per_server; keepalive_timeout 1h;", 'given 8, taken 8', 2],
    ['no pool',                "$server $pool", "$server keepalive 0;", 'nothing', 0],
    ['no pool here',           "$server $pool", "$server keepalive 0;", 'given 8, dropped disabled 8', 0, $pool],
    ['another server',         "$server $pool", "$other $pool", 'given 8, dropped server 8', 0],
    ['one more server',        "$server $pool", "$server $other $pool", 'given 8, taken 8', 8],
    ['a backup server',        "$server $pool", "$other @{[ $server =~ s/;/ backup;/r ]} $pool", 'given 8, taken 8', 8],
    ['another balancer',       "$server $pool", "least_conn; $server $pool", 'given 8, taken 8', 8],
    ['a zone',                 "$server $pool", "zone u 64k; $server $pool", 'given 8, taken 8', 8],
    ['a zone, and no zone',    "zone u 64k; $server $pool", "$server $pool", 'given 8, taken 8', 8],
    ['max_conns',              "$server $pool", "@{[ $server =~ s/;/ max_conns=8;/r ]} $pool", 'given 8, taken 8', 8],
    ['a smaller max_conns',    "$server $pool", "zone u 64k; @{[ $server =~ s/;/ max_conns=5;/r ]} $pool", 'given 8, taken 5, dropped limit 3', 5],
    ['a shorter keepalive_time', "$server $pool", "$server $pool keepalive_time 1ms;", 'given 8, dropped expired 8', 0],
    ['fewer keepalive_requests', "$server $pool", "$server $pool keepalive_requests 1;", 'given 8, dropped expired 8', 0],
    ['local',                  "$server $local", "$server $local", 'nothing', 0],
    ['no longer local',        "$server $local", "$server $pool", 'nothing', 0],
    ['local from now on',      "$server $pool", "$server $local", 'given 8, dropped disabled 8', 0],
    ['off',                    "$server $pool", "$server $pool keepalive_handover off;", 'nothing', 0],
    ['off here',               "$server $pool", "$server $pool keepalive_handover off;", 'given 8, dropped disabled 8', 0, $pool],
    ['off until now',          "$server $pool keepalive_handover off;", "$server $pool", 'nothing', 0],
) {
    my ($title, $before, $after, $told, $stay, $elsewhere) = @$case;
    # Another upstream that hands connections over, or none.
    my $v = "$other " . ($elsewhere // 'keepalive 0;');
    start(1, { u => $before, v => $v });
    is each_worker(8, '/u'), '200 x 8', "$title: eight connections";
    reload(http => http({ u => $after, v => $v }));
    open_now($stay, "$title: $stay stay");
    idle($stay, "$title: the new worker has them");
    become($status, 'u', $told, "$title: what was handed over");
    my ($dropped, $closed) = (sum0($told =~ /dropped \w+ (\d+)/g), $status->json->{upstreams}{u}{closed});
    my $ended = 8 - $stay - $dropped;
    is join(', ', map { $closed->{$_} ? "$_ $closed->{$_}" : () } sort keys %$closed),
        !$ended ? '' : $told eq 'nothing' ? "exiting $ended" : "evicted $ended", "$title: what was closed";
    is get($port, '/u')->{headers}{'x-told'}, $stay ? 'TAKEN' : $after =~ /keepalive 0/ ? 'BYPASS' : 'MISS', "$title: the next request"
        unless $after =~ /\Q$other\E/;
    stop();
}

# Two servers, of which one is removed; an upstream that is renamed; a unix socket; TLS.
{
    my ($certificate, $key) = has_feature('with-http_ssl_module') ? self_signed('localhost') : ();
    my $tls = $certificate && "server { listen 127.0.0.1:$secure ssl; ssl_certificate $certificate; ssl_certificate_key $key; return 200; }";
    my $secure_one = $certificate ? "upstream s { server 127.0.0.1:$secure; $pool }\n$tls" : '';
    my $configuration = sub {
        my ($u, $name) = @_;
        my $http = http({ u => "$u $pool", $name => "$server $pool", x => 'server ' . $backend->address(2) . "; $pool" }, $secure_one);
        $http =~ s{(location = /pid)}{location /s { proxy_pass https://s; } $1} if $certificate;
        return $http;
    };
    $nginx = Keepalive::Nginx->new(log_level => 'warn', http => $configuration->("$server $other", 'v'))->start;
    $backend->reset;
    is each_worker(8, '/u'), '200 x 8', 'two servers: four connections to each';
    is each_worker(3, '/v') . ', ' . each_worker(2, '/x'), '200 x 3, 200 x 2', 'another upstream, and a unix socket';
    is each_worker(2, '/s'), '200 x 2', 'and TLS' if $certificate;
    open_now('7 4 2', 'so many connections are open', 0 .. 2);
    my $secure_before = established($secure);
    reload(http => $configuration->($other, 'w'));
    open_now('0 4 2', 'a server was removed, and an upstream renamed: their connections are closed', 0 .. 2);
    become($status, 'u', 'given 8, taken 4, dropped server 4', 'those to the other server stay');
    become($status, 'x', 'given 2, taken 2', 'and those to the unix socket');
    if ($certificate) {
        cmp_ok $secure_before, '>=', 1, 'TLS: a connection, or two';
        become($status, 's', 'nothing', 'TLS: nothing was handed over');
        ok wait_for { established($secure) == 0 }, 'TLS: they are closed';
    }
    is $status->json->{upstreams}{w}{keepalive}, 0, 'the renamed upstream begins without connections';
    stop();
}

# A reload that fails.
{
    start(2, { u => "$server $pool" });
    is each_worker(4, '/u'), '200 x 8', 'a reload that fails: eight connections';
    my @workers = $nginx->workers;
    my $descriptors = $nginx->descriptors($nginx->pid);
    $nginx->configure(http => http({ u => "$server $pool keepalive_handover x;" }));
    $nginx->allow(qr/invalid value "x"/);
    for my $round (1 .. 3) {
        $nginx->signal('HUP');
        ok wait_for { $round == (() = $nginx->error_log =~ /invalid value "x" in "keepalive_handover"/g) }, "a reload that fails: it is refused, round $round";
    }
    is_deeply [$nginx->workers], \@workers, 'a reload that fails: the workers are the same';
    idle('4 4', 'a reload that fails: they have their connections');
    is $nginx->descriptors($nginx->pid), $descriptors, 'a reload that fails: the master has as many descriptors as before';
    become($status, 'u', 'nothing', 'a reload that fails: nothing was handed over');
    reload(http => http({ u => "$server $pool" }));
    idle('4 4', 'the next one hands them over');
    is $backend->stats->{accepted}, 8, 'no new connection';
    stop();
}

# Requests under way.
{
    start(1, { u => "$server $pool" });
    my @requests = map { begin($port, '/u?delay=500') } 1 .. 4;
    ok wait_for { $backend->stats->{requests} == 4 }, 'under way: four requests';
    my ($old) = $nginx->reload;
    is statuses(@requests), '200 x 4', 'under way: they end well';
    ok is_gone($old), 'under way: the old worker is gone';
    idle(4, 'under way: the new worker has their connections');
    is each_worker(4, '/u'), '200 x 4', 'under way: it uses them';
    is $backend->stats->{accepted}, 4, 'under way: no new connection';

    # The next reload comes before the oldest worker has ended.
    my $slow = begin($port, '/u?delay=1500');
    ok wait_for { $backend->stats->{busy} == 1 }, 'two reloads: a slow request';
    my @old = map { $nginx->reload } 1, 2;
    is $slow->finish->{status}, 200, 'two reloads: it ends well';
    ok is_gone(@old), 'two reloads: the old workers are gone';
    idle(4, 'two reloads: the newest worker has all connections');
    is each_worker(4, '/u'), '200 x 4', 'two reloads: it uses them';
    is $backend->stats->{accepted}, 4, 'two reloads: no new connection';
    stop();
}

# A queue: requests that wait in the old workers are served there, and what is left over goes to the new ones.
{
    start(2, { u => 'zone u 64k; server ' . $backend->address . " max_conns=2; $pool queue 100 timeout=20s;" });
    my @requests = map { begin($port, "/u?delay=20&n=$_") } 1 .. 60;
    my @old = $nginx->reload;
    push @requests, map { begin($port, "/u?delay=20&n=$_") } 61 .. 80;
    is statuses(@requests), '200 x 80', 'a queue: all are served';
    ok is_gone(@old), 'a queue: the old workers are gone';
    # Each configuration has a count of its own.
    cmp_ok $backend->stats->{max_open}, '<=', 4, 'a queue: within max_conns, of each configuration';
    open_now(2, 'a queue: at the end, of both together');
    is statuses(map { begin($port, "/u?delay=100&n=$_") } 1 .. 2), '200 x 2', 'a queue: two at once';
    stop();
}

# What counts for a connection goes on.
{
    start(1, { u => "$server keepalive 8; keepalive_timeout 2s;", requests => "$server $pool keepalive_requests 4;" });
    my @carried = map { reload() if $_ % 2; get($port, '/requests')->{headers} } 1 .. 6;
    is join(' ', map { "$_->{'x-connection'}:$_->{'x-request'}" } @carried), '1:1 1:2 1:3 1:4 2:1 2:2', 'keepalive_requests goes on counting';
    $backend->drop;
    open_now(0, 'a connection that has been idle');
    get($port, '/u');
    my $begun = time;
    sleep 1;
    reload();
    idle(1, 'is handed over after a second');
    ok wait_for { !$backend->stats->{open} }, 'and is closed in the end';
    my $took = time - $begun;
    cmp_ok $took, '>', 1.9, sprintf 'keepalive_timeout 2s: not too soon (%.2f s)', $took;
    cmp_ok $took, '<', 2.9, 'keepalive_timeout 2s: it goes on counting';
    $status->expect('u', 'opened 1, given 1, taken 1, closed timeout 1', 'and so it is counted');

    # A shorter timeout applies at once.
    get($port, '/u');
    reload(http => http({ u => "$server keepalive 8; keepalive_timeout 100ms;" }));
    open_now(0, 'a shorter keepalive_timeout applies');
    stop();
}

# Without the module, and with it again.
{
    start(1, { u => "$server $pool" });
    is each_worker(4, '/u'), '200 x 4', 'the module goes: four connections';
    my $descriptors = $nginx->descriptors($nginx->pid);
    my $plain = http({ u => "$server keepalive 8;" }) =~ s/location = \/status.*|add_header.*//gr;
    for my $round (1, 2) {
        my $number = $backend->stats->{open};
        reload(module => 0, http => $plain);
        open_now(0, "the module goes, round $round: its $number connections are closed");
        is each_worker(2, '/u'), '200 x 2', "the module goes, round $round: requests are served";
        reload(module => 1, http => http({ u => "$server $pool" }));
        open_now(0, "the module comes, round $round: it takes nothing over");
        is each_worker(4, '/u'), '200 x 4', "the module comes, round $round: four connections";
        reload();
        idle(4, "the module is there again: it takes over connections, round $round");
    }
    ok wait_for { $nginx->descriptors($nginx->pid) == $descriptors }, 'the master has as many descriptors as before';
    stop();
}

# Descriptors of master and workers.
{
    start(2, { u => "$server $pool" });
    my $count = sub { join ' ', map { $nginx->descriptors($_) } $nginx->pid, $nginx->workers };
    is each_worker(4, '/u'), '200 x 8', 'descriptors: eight connections';
    reload();
    sleep 0.1;
    my $first = $count->();
    reload() for 1 .. 9;
    idle('4 4', 'descriptors: after ten reloads the connections are there');
    ok wait_for { $count->() eq $first }, 'descriptors: as many after ten reloads as after the first one' or diag $count->() . " instead of $first";

    # A new binary inherits the listening sockets and nothing else.
    my $old = $nginx->pid;
    $nginx->signal('USR2');
    ok wait_for { $nginx->pid && $nginx->pid != $old && $nginx->workers == 2 }, 'upgrade: a new master';
    $nginx->signal('QUIT', $old);
    ok is_gone($old), 'upgrade: the old one is gone';
    open_now(0, 'upgrade: its connections are closed');
    is each_worker(4, '/u'), '200 x 8', 'upgrade: eight connections';
    reload();
    idle('4 4', 'upgrade: a reload hands them over');
    SKIP: {
        skip 'the new binary inherits the file for reports of the sanitizers', 1 if is_sanitized();
        ok wait_for { $count->() eq $first }, 'upgrade: as many descriptors' or diag $count->() . " instead of $first";
    }
    stop();
}

done_testing;
