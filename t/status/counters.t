# The counters of keepalive_status, with one worker and with four, compared with those of the servers: connections, requests, and
# each reason for which a connection is closed or not stored.
#
# faults: F1.2 "'while it was idle'"
# faults: F2.2 "drop('reset', 'reset')"
# faults: F9.1 "one more is on its way"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Deaf;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue qw(queue_nginx connections_to established);
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

# Each upstream has a listener of the server to itself; `two` has the spare one as well.
my %inside = (
    two           => 'keepalive 64;',
    timeout       => 'keepalive 4; keepalive_timeout 100ms;',
    time          => 'keepalive 4; keepalive_time 1ms;',
    requests      => 'keepalive 4; keepalive_requests 2;',
    hint          => 'keepalive 4; keepalive_hint on margin=900ms;',
    evicted       => 'keepalive 1;',
    full          => 'keepalive 4 local;',
    draining      => 'keepalive 4; keepalive_drain 64k timeout=5s;',
    drain_limit   => 'keepalive 4; keepalive_drain 1k timeout=100ms;',
    body_unread   => 'keepalive 4; keepalive_drain 0;',
    disabled      => 'keepalive 0;',
    stale_off     => 'keepalive 4; keepalive_stale_retry off;',
    stale_fails   => 'keepalive 4; keepalive_stale_fails on;',
    unnoticed     => 'keepalive 4; keepalive_check off;',
    map { $_ => 'keepalive 4;' } qw(held server_closed ends unexpected_data more reset check drain_broken drain_reset
        http_1_0 connection_close request_close body_unsent broken_off error upgraded tried same stale stale_get),
);
my @names = sort keys %inside;
my %listener = map { $names[$_] => $_ } 0 .. $#names;
my $spare = @names;
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x (@names + 1)]);
my $socket = work_dir() . '/socket';
my %others = (unix => Keepalive::Backend->start(listen => ["unix:$socket"]),
    map { $_ => Keepalive::Backend->start(protocol => $_) } qw(fastcgi uwsgi scgi));

# A server that refuses connections, and one on which none is ever established.
my $refuses = '127.0.0.1:' . free_port();
my $deaf = Keepalive::Deaf->start;

my %upstreams = (connect => "server $refuses; keepalive 4;");
for my $name (@names) {
    my $server = 'server ' . $backend->address($listener{$name});
    my %servers = (
        two   => "$server; server @{[ $backend->address($spare) ]};",
        full  => "$server max_conns=1;",
        tried => "server $refuses max_fails=0; $server;",
        same  => "$server; $server backup;",
    );
    my $timeout = $name eq 'timeout' ? '' : 'keepalive_timeout 10m;';
    $upstreams{$name} = ($servers{$name} // "$server max_fails=0;") . " $inside{$name} $timeout";
}
my $cgi = join '', map { my $name = $_; map { "${name}_param $_;\n" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
    'QUERY_STRING $query_string', 'CONTENT_LENGTH $content_length' } qw(fastcgi uwsgi scgi);
my $http = join '', map { "upstream $_ { server @{[ $others{$_}->address ]}; keepalive 4; }\n" } sort keys %others;
$http .= "upstream dark { server @{[ $deaf->address ]}; keepalive 4; }\n";
$http .= "upstream kept { server @{[ $others{fastcgi}->address ]}; keepalive 4; }\n";
my $accel = join '', map { "location /accel/$_ { proxy_pass http://$_/?header=X-Accel-Redirect:/instead&\$args; }\n" } @names;
my $locations = <<"END";
client_max_body_size 20m;
$cgi
location = /status { access_log off; keepalive_status; }
location = /instead { internal; return 204; }
$accel
location /old { proxy_http_version 1.0; proxy_pass http://http_1_0; }
location /closes { proxy_set_header Connection close; proxy_pass http://request_close; }
location /elsewhere { proxy_pass http://full; }
location /direct { proxy_buffering off; proxy_pass http://body_unread; }
location /bodiless { proxy_pass_request_body off; proxy_pass http://body_unsent; }
location /upgrades { proxy_set_header Connection upgrade; proxy_set_header Upgrade \$http_upgrade; proxy_pass http://upgraded; }
location /brief { proxy_read_timeout 100ms; proxy_pass http://error; }
location /unix { proxy_pass http://unix; }
location /dark/patient { proxy_pass http://dark; }
location /dark { proxy_connect_timeout 100ms; proxy_pass http://dark; }
location /fastcgi { fastcgi_pass fastcgi; }
location /kept { fastcgi_keep_conn on; fastcgi_pass kept; }
location /uwsgi { uwsgi_pass uwsgi; }
location /scgi { scgi_pass scgi; }
END

my ($port, $nginx, $status, @pids, $next);

# The next worker, and connections to it.
sub clients {
    my ($number) = @_;
    my $pid = $pids[$next++ % @pids];
    return ($pid, connections_to($port, $pid, $number));
}

sub client { return (clients(1))[1] }

# The answer to a request over a connection of a client.
sub ask {
    my ($client, $path, %options) = @_;
    my $request = begin($port, $path, %options, keep_alive => 1, over => $client);
    my $bytes = '';
    while (1) {
        my $more = $request->receive;
        $bytes .= $more;
        my $answer = Keepalive::Client::parse($bytes);
        return $answer if $answer->{complete} || $more eq '';
    }
}

sub drop { my ($name, $how) = @_; $backend->control("/drop?how=$how&listener=$listener{$name}") }
sub open_at { return $backend->stats($listener{ $_[0] })->{open} }

# An idle connection, or several, that the server ends unnoticed, as a request that nginx reads first has come at the same
# time.
sub surprise {
    my ($name, $idle, %options) = @_;
    my ($pid, @clients) = clients($idle);
    my @requests = map { begin($port, "/$name?delay=200", over => $_, keep_alive => 1) } @clients;
    $_->receive for @requests;
    $status->expect($name, "opened $idle, idle $idle", "$name: $idle idle");
    # Nothing is known of those that are idle until the worker goes on.
    kill STOP => $pid;
    my $request = begin($port, "/$name", over => $clients[0], keep_alive => 1, %options);
    drop($name, 'close');
    wait_for { !open_at($name) };
    # The server counts a connection as closed just before it closes it.
    sleep 0.05;
    kill CONT => $pid;
    return $request->receive =~ m{^HTTP/1\.1 (\d+)} ? $1 : 'none';
}

for my $workers (1, 4) {
    my $title = "workers: $workers";
    $backend->reset;
    $_->reset for values %others;
    $next = 0;
    $port = free_port();
    $nginx = queue_nginx($port, \%upstreams, workers => $workers, listen => 'reuseport', http => $http, locations => $locations)->start;
    @pids = sort { $a <=> $b } $nginx->workers;
    $status = Keepalive::Status->new($port);
    my $expect = sub { my ($name, $numbers, $what) = @_; $status->expect($name, $numbers, "$title, $name" . ($what ? ": $what" : '')) };

    is $status->json->{workers}, $workers, "$title: all of them are alive";
    is scalar(grep { Keepalive::Status::told($_) ne '' } values %{ $status->json->{upstreams} }), 0, "$title: all numbers are zero at first";
    $status->consistent("$title: and agree");

    # A load of known numbers.
    my $load = Keepalive::Load->start($port, clients => 8, requests => 50, keep_alive => 1,
        request => sub { my ($number, $client) = @_; ($number + $client) % 3 ? '/two' : '/two?delay=3' });
    my ($answers, @failures) = $load->finish;
    is "$answers, @failures", '400, ', "$title, load: 400 answers";
    ok wait_for { $status->json->{upstreams}{two}{active} == 0 }, "$title, load: none is active any more";
    my $told = $status->json->{upstreams}{two};
    is $told->{requests}, 400, "$title, load: 400 requests";
    for my $listener ($listener{two}, $spare) {
        my $stats = $backend->stats($listener);
        my ($peer) = grep { $_->{server} eq $backend->address($listener) } @{ $told->{peers} };
        my $reused = $stats->{requests} - $stats->{accepted};
        is Keepalive::Status::told($peer), "opened $stats->{accepted}, reused $reused, idle $stats->{open}",
            "$title, load: the numbers of a server are those that it has itself";
        is $peer->{idle}, established($backend->port($listener)), "$title, load: and those of the kernel";
        cmp_ok $reused, '>', 0, "$title, load: it was worth it";
    }
    $status->consistent("$title, load: all agrees");

    # Requests that are under way.
    my @held = map { begin($port, '/held?fault=hang&at=start') } 1 .. 3;
    $expect->('held', 'opened 3, active 3');
    (shift @held)->abort;
    $expect->('held', 'opened 3, active 2, not_stored body_unread 1', 'one client leaves');
    $_->abort for @held;
    $expect->('held', 'opened 3, not_stored body_unread 3', 'all do');

    # Why connections are closed that were kept, or could have been.
    for my $number (1, 2) {
        ask(client(), '/timeout');
        $expect->('timeout', "opened $number, closed timeout $number", "number $number");
    }

    ask(client(), '/time?delay=20');
    $expect->('time', 'opened 1, closed time 1');

    {
        my $client = client();
        ask($client, '/requests') for 1 .. 5;
        $expect->('requests', 'opened 3, reused 2, idle 1, closed requests 2');
    }

    {
        my $client = client();
        ask($client, '/hint?header=Keep-Alive:timeout=0');
        $expect->('hint', 'opened 1, closed hint 1', 'no time at all');
        ask($client, '/hint?header=Keep-Alive:max=1');
        $expect->('hint', 'opened 2, idle 1, closed hint 1', 'one more request');
        ask($client, '/hint');
        $expect->('hint', 'opened 2, reused 1, closed hint 2', 'that was the last one');
        ask($client, '/hint?header=Keep-Alive:timeout=1');
        $expect->('hint', 'opened 3, reused 1, closed hint 3', 'its time is over');
    }

    {
        my (undef, @clients) = clients(3);
        my @requests = map { begin($port, '/evicted?delay=50', over => $_, keep_alive => 1) } @clients;
        $_->receive for @requests;
        $expect->('evicted', 'opened 3, idle 1, closed evicted 2', 'the pool is full');
        ask($clients[0], '/full');
        $expect->('full', 'opened 1, idle 1', 'max_conns=1');
        ask($clients[0], '/elsewhere');
        $expect->('full', 'opened 2, idle 1, closed evicted 1', 'makes room for another location');
    }

    ask(client(), '/server_closed');
    $expect->('server_closed', 'opened 1, idle 1');
    drop('server_closed', 'close');
    $expect->('server_closed', 'opened 1, closed server_closed 1', 'while it was idle');
    ask(client(), '/server_closed?fault=close');
    $expect->('server_closed', 'opened 2, closed server_closed 2', 'right behind the answer');
    ask(client(), '/ends?framing=eof');
    $expect->('ends', 'opened 1, closed server_closed 1', 'to end the answer');

    ask(client(), '/unexpected_data?fault=extra&after=50');
    $expect->('unexpected_data', 'opened 1, closed unexpected_data 1', 'while it was idle');
    ask(client(), '/more?fault=extra');
    $expect->('more', 'opened 1, closed unexpected_data 1', 'with the answer');
    ask(client(), '/more?framing=chunked&fault=extra');
    $expect->('more', 'opened 2, closed unexpected_data 2', 'with an answer in chunks');

    ask(client(), '/reset');
    $expect->('reset', 'opened 1, idle 1');
    drop('reset', 'reset');
    $expect->('reset', 'opened 1, closed error 1');

    is surprise('check', 2), 200, "$title, check: answered over a new connection";
    $expect->('check', 'opened 3, idle 1, closed check 2', 'both idle ones were found dead');

    # The rest of unread answers.
    is ask(client(), '/accel/draining?len=1000&drip=50')->{status}, 204, "$title, draining: answered before";
    $expect->('draining', 'opened 1, draining 1');
    $expect->('draining', 'opened 1, idle 1', 'and is kept');
    ask(client(), '/accel/drain_limit?len=5000');
    $expect->('drain_limit', 'opened 1, closed drain_limit 1', 'too large');
    ask(client(), '/accel/drain_limit?len=5000&framing=chunked&drip=2');
    $expect->('drain_limit', 'opened 2, closed drain_limit 2', 'too large, which shows later');
    ask(client(), '/accel/drain_limit?len=1000&fault=hang&at=body');
    $expect->('drain_limit', 'opened 3, closed drain_limit 3', 'too late');
    ask(client(), '/accel/drain_broken?len=1000&fault=close&at=body&after=20');
    $expect->('drain_broken', 'opened 1, closed server_closed 1', 'the server closes');
    ask(client(), '/accel/drain_broken?len=1000&drip=5&fault=extra');
    $expect->('drain_broken', 'opened 2, closed server_closed 1, closed unexpected_data 1', 'the server says more');
    ask(client(), '/accel/drain_reset?len=1000&fault=reset&at=body&after=20');
    $expect->('drain_reset', 'opened 1, closed error 1', 'the server resets');

    # Why others are not kept.
    ask(client(), '/old');
    $expect->('http_1_0', 'opened 1, not_stored http_1_0 1', 'the request');
    ask(client(), '/http_1_0?version=1.0&stay=1');
    $expect->('http_1_0', 'opened 2, not_stored http_1_0 2', 'the answer');

    {
        my $client = client();
        ask($client, '/connection_close?header=Connection:close');
        ask($client, '/connection_close');
        $expect->('connection_close', 'opened 2, idle 1, not_stored connection_close 1', 'at once');
        ask($client, '/connection_close?header=Connection:close&stay=1');
        $expect->('connection_close', 'opened 2, reused 1, not_stored connection_close 2', 'later');
    }

    ask(client(), '/closes') for 1, 2;
    $expect->('request_close', 'opened 2, not_stored request_close 2');

    ask(client(), '/accel/body_unread?len=1000');
    $expect->('body_unread', 'opened 1, not_stored body_unread 1', 'keepalive_drain 0');
    {
        my $request = begin($port, '/direct?len=1000000&fault=hang&at=body');
        $request->receive;
        $expect->('body_unread', 'opened 2, active 1, not_stored body_unread 1', 'an answer is half there');
        $request->abort;
        $expect->('body_unread', 'opened 2, not_stored body_unread 2', 'its client leaves');
    }

    ask(client(), '/bodiless?early=1', method => 'POST', body => 'x' x 100);
    $expect->('body_unsent', 'opened 1, not_stored body_unsent 1', 'announced and not sent');
    get($port, '/body_unsent?early=1&len=1&fault=hang&after=400', method => 'POST', body => 'x' x 15_000_000);
    $expect->('body_unsent', 'opened 2, not_stored body_unsent 2', 'answered before');

    {
        my $client = client();
        is ask($client, '/brief?delay=400')->{status}, 504, "$title, error: a timeout";
        $expect->('error', 'opened 1, not_stored error 1', 'no answer in time');
        is ask($client, "/error?fault=$_&at=start")->{status}, 502, "$title, error: a new connection fails" for 'close', 'reset';
        $expect->('error', 'opened 3, not_stored error 3', 'no answer at all');
        get($port, '/error?len=1000&fault=reset&at=body');
        $expect->('error', 'opened 4, not_stored error 4', 'reset in the middle of the answer');
        $client = client();
        ask($client, '/error');
        ask($client, '/error?len=1000&fault=reset&at=body&from=2');
        $expect->('error', 'opened 5, reused 1, not_stored error 5', 'the same over a connection from the pool');
        $client = client();
        ask($client, '/error');
        is ask($client, '/brief?delay=400')->{status}, 504, "$title, error: a timeout over a connection from the pool";
        $expect->('error', 'opened 6, reused 2, not_stored error 6', 'no answer in time over a connection from the pool');
        get($port, '/broken_off?len=1000&fault=close&at=body');
        $expect->('broken_off', 'opened 1, not_stored error 1', 'closed in the middle of the answer');
        $client = client();
        ask($client, '/broken_off');
        ask($client, '/broken_off?len=1000&fault=close&at=body&from=2');
        $expect->('broken_off', 'opened 2, reused 1, not_stored error 2', 'the same over a connection from the pool');
    }

    ask(client(), '/disabled') for 1, 2;
    $expect->('disabled', 'opened 2, not_stored disabled 2');

    is ask(client(), '/connect')->{status}, 502, "$title, connect: refused";
    $expect->('connect', 'opened 1, not_stored connect 1');
    is ask(client(), '/dark')->{status}, 504, "$title, dark: no connection comes about";
    $expect->('dark', 'opened 1, not_stored connect 1');
    my $leaves = begin($port, '/dark/patient');
    $expect->('dark', 'opened 2, active 1, not_stored connect 1', 'one more is on its way');
    $leaves->abort;
    $expect->('dark', 'opened 2, not_stored connect 2', 'its client leaves');
    {
        my $client = client();
        is ask($client, '/tried')->{status}, 200, "$title, tried: the other server answers" for 1 .. 4;
        $status->expect('tried', 'opened 2, not_stored connect 2', "$title, tried: the one that refuses", $refuses);
        $status->expect('tried', 'opened 1, reused 3, idle 1', "$title, tried: the other one", $backend->address($listener{tried}));
        ask($client, '/same') for 1, 2;
        $expect->('same', 'opened 1, reused 1, idle 1', 'a server that is written twice');
        ask($client, '/unix') for 1, 2;
        $status->expect('unix', 'opened 1, reused 1, idle 1', "$title, unix: by its path", "unix:$socket");
    }

    {
        my $tunnel = begin($port, '/upgrades?upgrade=1', headers => { Upgrade => 'echo' }, keep_alive => 1);
        like $tunnel->receive, qr/^HTTP\/1.1 101 /, "$title, upgraded: there is a tunnel";
        $tunnel->more('echo');
        is $tunnel->receive, 'echo', "$title, upgraded: that works";
        $expect->('upgraded', 'opened 1, active 1');
        $tunnel->abort;
        $expect->('upgraded', 'opened 1, not_stored upgraded 1');
    }

    for my $protocol (qw(uwsgi scgi)) {
        ask(client(), "/$protocol") for 1, 2;
        $expect->($protocol, 'opened 2, not_stored protocol 2');
    }
    ask(client(), '/fastcgi') for 1, 2;
    $expect->('fastcgi', 'opened 2, not_stored request_close 2');
    {
        my $client = client();
        ask($client, '/kept') for 1 .. 3;
        $expect->('kept', 'opened 1, reused 2, idle 1');
    }

    # Stale connections.
    {
        my $client = client();
        ask($client, '/stale');
        is ask($client, '/stale?fault=reset&at=start&from=2')->{status}, 200, "$title, stale: a GET is sent again";
        $expect->('stale', 'opened 2, reused 1, idle 1, stale 1, repeats 1, closed error 1');
        is ask($client, '/stale?fault=close&at=start&from=2', method => 'POST', body => 'x')->{status}, 502, "$title, stale: a POST is not";
        $expect->('stale', 'opened 2, reused 2, stale 2, repeats 1, closed error 1, closed server_closed 1');

        ask($client, '/stale_get');
        is ask($client, '/stale_get?fault=close&at=start&from=2')->{status}, 200, "$title, stale_get: a GET is sent again";
        $expect->('stale_get', 'opened 2, reused 1, idle 1, stale 1, repeats 1, closed server_closed 1', 'the server has closed here too');

        for my $name (qw(stale_off stale_fails)) {
            ask($client, "/$name");
            is ask($client, "/$name?fault=reset&at=start&from=2")->{status}, 200, "$title, $name: nginx sends a GET again";
            $expect->($name, 'opened 2, reused 1, idle 1, stale 1, closed error 1', 'which is no repeat of ours');
        }
    }
    is surprise('unnoticed', 1, method => 'POST', body => 'x'), 200, "$title, unnoticed: a POST that has not arrived is sent again";
    $expect->('unnoticed', 'opened 2, reused 1, idle 1, stale 1, repeats 1, closed server_closed 1');

    # All together: what nginx and the servers have counted.
    $status->still("$title: nothing has changed meanwhile");
    $status->consistent("$title: all agrees");
    my $upstreams = $status->json->{upstreams};
    my (%here, %there);
    # That request has met a closed connection.
    my %not_arrived = (unnoticed => 1);
    for my $name (grep { $_ ne 'two' } @names) {
        my ($peer) = grep { $_->{server} eq $backend->address($listener{$name}) } @{ $upstreams->{$name}{peers} };
        $here{$name} = join ' ', @$peer{qw(opened idle requests)};
        my $stats = $backend->stats($listener{$name});
        $there{$name} = join ' ', @$stats{qw(accepted open)}, $stats->{requests} + ($not_arrived{$name} // 0);
    }
    is_deeply \%here, \%there, "$title: each server has accepted, holds and has served as many";
    $nginx->stop;
}

done_testing;
