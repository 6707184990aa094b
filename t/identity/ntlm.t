# ntlm: a connection that its server authenticates as a whole is kept for the client that has authenticated on it, and for no
# other, as long as that client stays connected.
#
# faults: F10.3 "each has a connection of its own" "each request goes where its client has logged in" "another client is nobody"
# faults: F10.3 "it is closed with the connection of its client"

use strict;
use warnings;

use HTTP::Tiny;
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Auth ();
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my ($port, $h2_port) = (free_port(), free_port());
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($first, $second) = map { $backend->address($_) } 0, 1;
my $auth = has_feature('with-http_auth_request_module');
my $h2 = Keepalive::Auth::http2_listen($h2_port);

# What stands in upstream `name` besides `ntlm`; /name is passed to it.
my %upstreams = (
    one      => "server $first; keepalive 8;",
    two      => "keepalive 8; server $first; server $second;",
    least    => "server $first; server $second; least_conn; keepalive 8;",
    zone     => "zone zone 256k; server $first; server $second; keepalive 8;",
    shared   => "server $first; keepalive 8;",
    drained  => "server $first; keepalive 8;",
    pages    => "server $first; keepalive 8;",
    shapes   => "server $first; keepalive 8;",
    h2       => "server $first; keepalive 8;",
    stale    => "server $first; keepalive 8;",
    blind    => "server $first; keepalive 8; keepalive_check off;",
    blind2   => "server $first; server $second; keepalive 8; keepalive_check off;",
    requests => "server $first; keepalive 8; keepalive_requests 3;",
    short    => "server $first; keepalive 8; keepalive_timeout 300ms;",
    small    => "server $first; keepalive 1;",
    limited  => "server $first max_conns=2; keepalive 8; queue 8 timeout=10s;",
    leaving  => "server $first max_conns=1; keepalive 8; queue 8 timeout=10s;",
    gone     => "server $first; keepalive 8;",
);
my $blocks = join '', map { "upstream $_ { $upstreams{$_} ntlm; }\n" } sort keys %upstreams;
my $passes = join '', map { "location /$_ { proxy_pass http://$_/; }\n" } sort keys %upstreams;
mkdir work_dir() . '/pages' or die $!;
{
    open my $out, '>', work_dir() . '/pages/included' or die $!;
    print $out '<!--#include virtual="/pages?login=1&delay=300" -->,<!--#include virtual="/pages?login=1&delay=300" -->';
    close $out or die $!;
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
$blocks
server {
    listen 127.0.0.1:$port;
    keepalive_timeout 60s;
    @{[ $h2 || '' ]}
    $passes
    location /bound { proxy_bind 127.0.0.1; proxy_pass http://shapes/; }
    location /included { ssi on; ssi_types *; root @{[ work_dir() ]}/pages; rewrite .* /included break; }
    location /off { proxy_next_upstream off; proxy_pass http://blind/; }
    @{[ $auth ? "location /asked { auth_request /question; proxy_pass http://shared/?body=let-in; }
        location = /question { internal; proxy_pass http://drained/?\$http_x_script; }" : '' ]}
    location /subrequest { auth_subrequest /asks; proxy_pass http://shared/?body=let-in; }
    location = /asks { internal; proxy_pass http://drained/?\$http_x_script; }
    location = /status { keepalive_status; }
}
END
my $status = Keepalive::Status->new($port);

# A client with a connection of its own, until it is undefined.
sub client { return HTTP::Tiny->new(keep_alive => 1, timeout => 15) }

sub answer {
    my ($client, $path, $authorization, %headers) = @_;
    $headers{Authorization} = $authorization if defined $authorization;
    return $client->get("http://127.0.0.1:$port$path", { headers => \%headers });
}

# Who it is, and which connection of the server it has got: '200 alice on 1'.
sub who {
    my $answer = answer(@_);
    return "$answer->{status} " . $answer->{content} =~ s/\n//r;
}

# The same without the connection.
sub ask { return who(@_) =~ s/ on \d+//r }

sub afresh {
    $backend->drop;
    wait_for { !$backend->stats(0)->{open} && !$backend->stats(1)->{open} };
    $backend->reset;
}

# A client that has logged in, by as many requests as NTLM takes.
sub log_in {
    my ($name, $path) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $client = client();
    my @got = map { ask($client, "$path?login=1", $_) } undef, 'NTLM hello', "NTLM user:$name";
    is "@got", "401 nobody 401 nobody 200 $name", "$path: $name logs in";
    return $client;
}

# Two clients of one server, mixed, and one that has not authenticated.
{
    afresh();
    my ($alice, $bob, $nobody) = map { client() } 1 .. 3;
    my @log = map { (who($alice, '/one?login=1', $_->[0]), who($nobody, '/one?login=1'), who($bob, '/one?login=1', $_->[1])) }
        [undef, undef], ['NTLM hello', 'ntlm hello'], ['NTLM user:alice', 'ntlm user:bob'], [undef, undef], [undef, undef];
    is_deeply \@log, [
        ('401 nobody on 1', '401 nobody on 2', '401 nobody on 3') x 2, ('200 alice on 1', '401 nobody on 2', '200 bob on 3') x 3,
    ], 'each has a connection of its own';
    $status->expect('one', 'opened 3, reused 12, idle 3', 'none of them is closed');
    undef $bob;
    $status->expect('one', 'opened 3, reused 12, idle 2, closed client_closed 1', 'it is closed with the connection of its client');
    ok wait_for { $backend->stats->{open} == 2 }, 'the server sees that';
    is ask(client(), '/one?login=1'), '401 nobody', 'another client is not Bob';
    is who($alice, '/one?login=1'), '200 alice on 1', 'Alice is still Alice';
}

# By one request, without a challenge: the connection that the request had is the client's.
{
    afresh();
    my ($alice, $other) = (client(), client());
    is who($other, '/shared'), '200 connection 1 request 1', 'a connection that is anybody\'s';
    is who($alice, '/shared?login=1', 'Negotiate user:alice'), '200 alice on 1', 'Negotiate: Alice logs in on it';
    is who($other, '/shared?login=1'), '401 nobody on 2', 'Negotiate: it is nobody else\'s any more';
    is who($alice, '/shared'), '200 connection 1 request 3', 'Negotiate: and Alice\'s, whatever she asks for';
    is who($alice, '/shared?header=Persistent-Auth:false&login=1'), '200 alice on 1', 'Negotiate: and it stays hers';
    is who($other, '/shared?login=1&header=Persistent-Auth:true&body=x'), '401 x', 'Persistent-Auth: bound too';
    $status->expect('shared', 'opened 2, reused 4, idle 2', 'two connections, each with its client');
}

# Several servers: the balancer has no say.
for my $name (qw(two least zone)) {
    afresh();
    my ($alice, $bob) = (log_in('alice', "/$name"), log_in('bob', "/$name"));
    my @got = map { ask($alice, "/$name?login=1"), ask($bob, "/$name?login=1"), ask(client(), "/$name?login=1") } 1 .. 4;
    is "@got", join(' ', ('200 alice 200 bob 401 nobody') x 4), "$name: each request goes where its client has logged in";
    my @requests = map { $backend->stats($_)->{requests} } 0, 1;
    ok $requests[0] && $requests[1], "$name: both servers have requests" or diag "@requests";
    undef $_ for $alice, $bob;
    ok wait_for { !$status->json->{upstreams}{$name}{keepalive} }, "$name: all are closed with their clients";
}

# The questions of an authorisation server are their client's requests too, and their answers are drained.
for my $how ($auth ? '/asked' : (), '/subrequest') {
    for my $script ('login=1', 'login=1&len=60000', 'login=1&framing=chunked&len=40&drip=10') {
        afresh();
        my ($alice, $bob) = (client(), client());
        my @got;
        for my $word (undef, 'NTLM hello', 'NTLM user:alice', undef) {
            push @got, answer($alice, $how, $word, 'X-Script' => $script)->{status};
            # A response that is still read is not to be waited for.
            wait_for { !$status->json->{upstreams}{drained}{draining} };
        }
        push @got, answer($bob, $how, undef, 'X-Script' => $script)->{status};
        is "@got", '401 401 200 200 401', "$how, $script: the one that has logged in is let in";
        undef $alice;
        ok wait_for { $status->json->{upstreams}{drained}{keepalive} == 1 }, "$how: her connection is closed with hers";
    }
}

# The client leaves while the answer to its question is drained.
{
    afresh();
    my $before = $status->json->{upstreams}{drained}{closed}{client_closed};
    my $alice = client();
    answer($alice, '/subrequest', 'NTLM hello', 'X-Script' => 'login=1&len=40&drip=60');
    undef $alice;
    ok wait_for { $status->json->{upstreams}{drained}{closed}{client_closed} == $before + 1 }, 'a drained connection of a client that has gone is not kept';
    is $status->json->{upstreams}{drained}{keepalive}, 0, 'none is left';
}

# Two requests of one client at a time: one has its connection, the other gets a new, unauthenticated one.
{
    afresh();
    my $alice = log_in('alice', '/pages');
    my $page = answer($alice, '/included')->{content};
    is join(',', sort split /\s*,\s*/, $page =~ s/ on \d+\s*//gr), 'alice,nobody', 'one of two subrequests is hers';
    is ask($alice, '/pages?login=1'), '200 alice', 'and she keeps what she had';
    $status->expect('pages', 'opened 2, reused 4, idle 1, not_stored stateful_auth 1', 'the other connection is closed');
}

# What shapes a connection counts all the same.
{
    afresh();
    my $alice = log_in('alice', '/shapes');
    is who($alice, '/bound?login=1'), '401 nobody on 2', 'another source address: another connection';
    is who($alice, '/bound?login=1', 'Negotiate user:alice2'), '200 alice2 on 2', 'it is hers as well';
    is who($alice, '/shapes?login=1'), '200 alice on 1', 'each location has its own';
    is who($alice, '/bound?login=1'), '200 alice2 on 2', 'and keeps it';
    undef $alice;
    ok wait_for { !$backend->stats->{open} }, 'both are closed with her';
}

# HTTP/2: several users may share a client's connection.
SKIP: {
    skip 'no HTTP/2', 2 unless $h2;
    afresh();
    Keepalive::Auth::curl($h2_port, '/h2?login=1', '-H', 'Authorization: Negotiate user:a') for 1 .. 2;
    $status->expect('h2', 'opened 2, not_stored stateful_auth 2', 'HTTP/2: not kept');
    my @warnings = $nginx->error_log =~ /(ntlm is on for upstream "h2", but .*? closed) while/g;
    is scalar @warnings, 1, 'HTTP/2: a warning, once';
}

# The server closes a client's connection: the request gets a new one, which is not authenticated.
for my $name (qw(stale blind blind2)) {
    for my $how ('close', 'reset') {
        afresh();
        my ($alice, $bob) = (log_in('alice', "/$name"), log_in('bob', "/$name"));
        # If nginx is kept from reading, it notices only with the next request.
        $nginx->signal('STOP', ($nginx->workers)[0]) if $name ne 'stale';
        $backend->drop($how);
        wait_for { !$backend->stats(0)->{open} && !$backend->stats(1)->{open} };
        my $request = Keepalive::Client::begin($port, "/$name?login=1");
        $nginx->signal('CONT', ($nginx->workers)[0]) if $name ne 'stale';
        like $request->finish->{body}, qr/^nobody/, "$name, $how: another client is nobody";
        is ask($alice, "/$name?login=1"), '401 nobody', "$name, $how: Alice has to log in again";
        is ask($bob, "/$name?login=1", 'NTLM hello'), '401 nobody', "$name, $how: Bob too";
        is ask($bob, "/$name?login=1", 'NTLM user:bob'), '200 bob', "$name, $how: he does";
    }
}

# A POST that the closed connection has not brought to the server goes by a new one.
{
    afresh();
    my $alice = log_in('alice', '/blind');
    my ($worker) = $nginx->workers;
    $nginx->signal('STOP', $worker);
    $backend->drop;
    wait_for { !$backend->stats->{open} };
    $nginx->signal('CONT', $worker);
    my $answer = $alice->post("http://127.0.0.1:$port/blind?login=1", { content => 'x' });
    is "$answer->{status} $answer->{content}", "401 nobody on 2\n", 'a POST over a connection that was closed: it is sent again, and asked who it is';
}

# The server closes the connection with the request on it.
{
    afresh();
    my ($alice, $bob) = (log_in('alice', '/blind'), log_in('bob', '/blind'));
    my $lost = answer($alice, '/off?login=1&fault=close&at=start')->{status};
    is $lost, 502, 'closed instead of an answer, and no other try: an error';
    is ask($alice, '/blind?login=1'), '401 nobody', 'closed instead of an answer: a new connection follows';
    is ask($bob, '/blind?login=1'), '200 bob', 'that of Bob is as it was';
    my $retried = answer($bob, '/blind?login=1&fault=close&at=start&from=4')->{status};
    is $retried, 401, 'a GET is sent again, over a new connection, and asked who it is';
}

# Limits.
{
    afresh();
    my $alice = log_in('alice', '/requests');
    is ask($alice, '/requests?login=1'), '401 nobody', 'keepalive_requests: the fourth request has another connection';
    $status->expect('requests', 'opened 2, reused 2, idle 1, closed requests 1', 'keepalive_requests: closed');
    $alice = log_in('alice', '/short');
    ok wait_for { $status->json->{upstreams}{short}{closed}{timeout} == 1 }, 'keepalive_timeout: closed';
    is ask($alice, '/short?login=1'), '401 nobody', 'keepalive_timeout: she has to log in again';
    afresh();
    my $bob = log_in('bob', '/small');
    is who($bob, '/small?login=1'), '200 bob on 1', 'a pool of one holds one';
    my $carol = log_in('carol', '/small');
    is ask($bob, '/small?login=1'), '401 nobody', 'another client needs the place: Bob has to log in again';
}

# max_conns: they count while they are kept, and make room.
{
    afresh();
    my @clients = map { log_in($_, '/limited') } qw(alice bob);
    is $backend->stats->{open}, 2, 'max_conns: two connections';
    is ask($_, '/limited?login=1'), ($_ == $clients[0] ? '200 alice' : '200 bob'), 'max_conns: the client\'s own is within the limit' for @clients;
    is ask(client(), '/limited?login=1'), '401 nobody', 'max_conns: a third client gets one for which another is closed';
    my @busy = map { Keepalive::Client::begin($port, '/limited?delay=300') } 1 .. 4;
    is join(' ', map { $_->finish->{status} } @busy), '200 200 200 200', 'max_conns: all are served';
    cmp_ok $backend->stats->{max_open}, '<=', 2, 'max_conns: never more than two';
    undef @clients;
    @busy = map { Keepalive::Client::begin($port, '/limited?delay=300') } 1 .. 2;
    ok wait_for { $backend->stats->{busy} == 2 }, 'max_conns: no place was lost';
    $_->finish for @busy;

    afresh();
    my $alice = log_in('alice', '/leaving');
    my $slow = Keepalive::Client::begin($port, '/leaving?login=1&delay=500', headers => { Authorization => 'Negotiate user:x' });
    wait_for { $backend->stats->{busy} };
    is ask($alice, '/leaving?login=1'), '401 nobody', 'max_conns: a client whose connection made room waits for its turn';
    like $slow->finish->{body}, qr/^x on/, 'max_conns: while the other one is served';
    is $backend->stats->{max_open}, 1, 'max_conns: never more than one';
}

# A client that goes while its request is under way.
{
    afresh();
    my $slow = Keepalive::Client::begin($port, '/gone?login=1&delay=300', keep_alive => 1, headers => { Authorization => 'NTLM hello' });
    wait_for { $backend->stats->{busy} };
    $slow->abort;
    ok wait_for { !$backend->stats->{open} }, 'a client that does not wait for the answer: its connection is closed';
    is ask(client(), '/gone?login=1', 'NTLM user:x'), '401 nobody', 'nobody gets its challenge';
}

$status->consistent('nothing contradicts itself');

# Reload, and the end of a worker.
{
    afresh();
    my $alice = log_in('alice', '/one');
    my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'reload: the old worker exits';
    ok wait_for { !$backend->stats->{open} }, 'reload: what it has kept is closed';
    is ask($alice, '/one?login=1'), '401 nobody', 'reload: she has to log in again';
}
my $last = log_in('alice', '/one');
$nginx->stop;

# nginx -t
my $with = sub { "upstream a {\n server 127.0.0.1:1;\n$_[0]\n }" };
my $useless = '"ntlm" in upstream "a" will never be used: it has %s in "upstream a {"';
my $other = Keepalive::Nginx->new(http => '');
for (
    ["keepalive 1;\nntlm;", ''],
    ["ntlm;\nkeepalive 1;", ''],
    ["ntlm;\nkeepalive 1;\nleast_conn;", ''],
    ["keepalive 1;\nntlm;\nntlm;", '"ntlm" directive is duplicate in "ntlm;"'],
    ["keepalive 1;\nntlm on;", 'invalid number of arguments in "ntlm" directive in "ntlm on;"'],
    ["keepalive 0;\nntlm;", sprintf $useless, '"keepalive 0"'],
    ['ntlm;', default_is_on() ? '' : sprintf $useless, 'no "keepalive"'],
) {
    my ($lines, $says) = @$_;
    my (undef, $said) = $other->verdict($with->($lines));
    is $said, $says, $lines =~ s/\n/ /gr;
}
my (undef, $said) = $other->verdict("ntlm;\n", 'emerg');
is $said, '"ntlm" directive is not allowed here in "ntlm;"', 'outside of an upstream';

done_testing;
