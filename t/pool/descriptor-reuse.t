# When an idle connection ends, the next connection gets its descriptor and its `ngx_connection_t`, and may go to another
# server. No request is given that one by mistake.
#
# faults: F10.5 "the other server's connection has it now" "the other server has got its own"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
my $servers = join ' ', 'hash $arg_key;', map { 'server ' . $backend->address($_) . ' max_fails=0;' } 0, 1;
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream pool  { $servers keepalive 4; }
upstream brief { $servers keepalive 4; keepalive_timeout 2s; }
upstream tight { $servers keepalive 1; }
upstream once  { $servers keepalive 4; keepalive_requests 1; }
server {
    listen 127.0.0.1:$port;
    location ~ ^/(pool|brief|tight|once)\$ { proxy_pass http://\$1\$uri\$is_args\$args; }
}
END
my ($worker) = $nginx->workers;

# The keys that lead requests to each of the two servers.
my @key;
for my $key ('a' .. 'z') {
    my @before = map { $backend->requests($_) } 0, 1;
    get($port, "/pool?key=$key");
    $key[ $backend->requests(0) > $before[0] ? 0 : 1 ] //= $key;
    last if defined $key[0] && defined $key[1];
}

# The descriptors of the worker's connections to a server.
sub descriptors_to {
    my ($server) = @_;
    my $port = $backend->port($server);
    # The kernel picks them out; /proc/net/tcp is slow on a machine with many sockets.
    my %inode = map { $_ => 1 } `ss -Htne state established 'dport = :$port'` =~ /\bino:(\d+)/g;
    return join ' ', sort map { my ($inode) = (readlink($_) // '') =~ /^socket:\[(\d+)\]/; $inode && $inode{$inode} ? m{(\d+)$} : () }
        glob "/proc/$worker/fd/*";
}

# Sends a request to a server, and returns the numbers of its connection and of the request on it, if that server has got it.
sub ask {
    my ($upstream, $server, $script, @options) = @_;
    my $before = $backend->requests($server);
    my $answer = get($port, "/$upstream?key=$key[$server]&" . ($script // ''), @options);
    return 'status ' . $answer->{status} if $answer->{status} != 200;
    return 'another server' if $backend->requests($server) == $before;
    return join ':', @{ $answer->{headers} }{qw(x-connection x-request)};
}

sub afresh {
    $backend->drop;
    wait_for { !grep { $backend->stats($_)->{open} } 0, 1 };
    $backend->reset;
}

# How a connection that is idle ends.
my @post = (method => 'POST', body => 'x');
my @ends = (
    ['the server closes', 'pool', '', sub { $backend->control('/drop?listener=0') }],
    ['the server resets', 'pool', '', sub { $backend->control('/drop?how=reset&listener=0') }],
    ['the server says something', 'pool', 'fault=extra&after=1000', sub { sleep 1.1 }],
    ['keepalive_timeout', 'brief', '', sub { sleep 1.5 }],
    ['keepalive_requests', 'once', '', sub {}],
    ['right behind the answer', 'pool', 'fault=close', sub { sleep 0.05 }],
    ['evicted', 'tight', '', sub {}],
);
for my $end (@ends) {
    my ($title, $upstream, $script, $run) = @$end;
    afresh();
    is ask($upstream, 0, $script), '1:1', "$title: one connection to the one server";
    my $descriptor = descriptors_to(0);
    if ($upstream =~ /pool|brief/ && $script ne 'fault=close') {
        # A list that changes while it is read may lack one.
        ok wait_for { ($descriptor = descriptors_to(0)) ne '' }, "$title: it has a descriptor";
    }
    $run->();
    # An eviction is by the connection to the other server, which is there then. The third one gets its descriptor.
    if ($title eq 'evicted') {
        is ask($upstream, 1), '1:1', "$title: one connection to the other server";
    }
    ok wait_for { !$backend->stats(0)->{open} }, "$title: it has ended";
    my $held = begin($port, "/$upstream?key=$key[1]&delay=300");
    wait_for { $backend->stats(1)->{busy} };
    if ($descriptor ne '' && $title ne 'evicted') {
        my $now = '';
        wait_for { ($now = descriptors_to(1)) ne '' };
        is $now, $descriptor, "$title: the other server's connection has it now";
    }
    is $held->finish->{status}, 200, "$title: the other server answers";
    is ask($upstream, 0, '', @post), '2:1', "$title: the one server is asked over a new connection";
    # Connections are used again only if they are kept; on a busy machine those of `brief` may have timed out.
    my @expected = $upstream eq 'pool' ? ('1:2', '2:2') : $upstream eq 'brief' ? (qr/1:2|2:1/, qr/2:2|3:1/) : ('2:1', '3:1');
    like ask($upstream, 1 - $_, '', @post), qr/^(?:$expected[$_])$/, "$title: and each server once more" for 0, 1;
}

# It ends unnoticed, as requests to both servers come at the same time.
for my $round (1 .. 3) {
    afresh();
    ask('pool', 0);
    my @clients = map { my $client = begin($port, '/none', keep_alive => 1); $client->receive; $client->{socket} } 1 .. 4;
    kill STOP => $worker;
    my @requests = map { begin($port, "/pool?key=$key[$_ % 2]&n=$_", @post, over => $clients[$_]) } 0 .. 3;
    my @before = map { $backend->requests($_) } 0, 1;
    $backend->control('/drop?listener=0');
    wait_for { !$backend->stats(0)->{open} };
    sleep 0.05;
    kill CONT => $worker;
    my @statuses = map { $_->finish->{status} } @requests;
    # The stock module sends one of them into the closed connection.
    is "@statuses", '200 200 200 200', "unnoticed, round $round: all are answered" if is_ours();
    is $backend->requests(1) - $before[1], 2, "unnoticed, round $round: the other server has got its own";
    is $backend->requests(0) - $before[0], scalar(grep { $statuses[$_] == 200 } 0, 2), "unnoticed, round $round: and so has the one";
}

$nginx->stop;
done_testing;
