# What happens to a connection while it is in transit between two workers, or just before: the server closes it or sends
# something, the worker that is to take it hangs or is killed, its client leaves, or there is nothing left to take it with.
#
# faults: F21.1 "the taker is killed" "the giver is killed" "both are killed" "many in transit"
# faults: F21.2 "closed in transit" "reset in transit" "$what, before it is given"
# faults: F21.3 "the foreign answer is not taken for one" "each request has its own answer"
# faults: F21.4 "the client has left" "a reload in transit"
# faults: F21.6 "are dropped for want of"

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Handover;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $status = Keepalive::Status->new($port);
my $server = 'server ' . $backend->address;
my ($nginx, $giver, $taker, $request, $held, $spare);

# Two workers. One request holds the server in the giver; another one waits in the taker, which is then stopped. When the
# first one ends, its connection is on its way to the taker.
sub send_one {
    my ($title, $path, %options) = @_;
    $backend->reset;
    $nginx = handover_nginx($port, { u => "zone u 64k; $server max_conns=1; keepalive 4; queue 10 timeout=10s;", v => "$server; keepalive 4;" },
        %options)->start;
    my @workers = $nginx->workers;
    ($giver, $taker) = map { { port => $port, pid => $_, socket => (connections_to($port, $_, 1))[0] } } @workers;
    $spare = (connections_to($port, $giver->{pid}, 1))[0];
    my $waits = (connections_to($port, $taker->{pid}, 1))[0];
    $held = begin($port, '/u?delay=300&' . ($path // ''), over => $giver->{socket}, keep_alive => 1);
    wait_for { $backend->stats->{requests} == 1 };
    $request = begin($port, '/u?waits', over => $waits);
    wait_for { told()->{queue}{size} == 1 };
    kill STOP => $taker->{pid};
    my $answer = Keepalive::Client::parse($held->receive);
    is "$answer->{status} $answer->{body}", "200 connection 1 request 1\n", "$title: the first request is answered";
    wait_for { told()->{handover}{in_transit} == 1 };
    is handed(told()), 'given 1, in_transit 1', "$title: its connection is in transit";
}

# The counters of the upstream, from the giver, since the taker may hang.
sub told { return JSON::PP::decode_json(ask({ port => $port, socket => $spare }, '/status?format=json')->{body})->{upstreams}{u} }

# Afterwards everything works, and no place at the server is lost or there twice. So many waits ended with a killed worker.
sub all_is_well {
    my ($title, $lost) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @two = map { begin($port, "/u?delay=100&n=$_") } 1, 2;
    is statuses(@two), '200 x 2', "$title: requests are answered afterwards";
    is $backend->stats->{max_open}, 1, "$title: never more than one connection";
    agree($status, "$title: the counters agree", $lost);
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

sub go_on { kill CONT => $taker->{pid} }

{
    my $title = 'no event, in transit';
    send_one($title);
    go_on();
    my $answer = $request->finish;
    is "$answer->{headers}{'x-connection'}:$answer->{headers}{'x-request'}", '1:2', "$title: it is taken";
    like $answer->{headers}{'x-told'}, qr/^(?:QUEUED|TAKEN)$/, "$title: and so it is told";
    become($status, 'u', 'given 1, taken 1', "$title: counted");
    all_is_well($title);
}

for my $how (qw(close reset)) {
    my $title = $how eq 'close' ? 'closed in transit' : 'reset in transit';
    send_one($title);
    $backend->drop($how);
    wait_for { !$backend->stats->{open} };
    go_on();
    my $answer = $request->finish;
    is $answer->{status}, 200, "$title: the request is answered";
    is "$answer->{headers}{'x-connection'}:$answer->{headers}{'x-request'}", '2:1', "$title: it is not used";
    become($status, 'u', 'given 1, dropped closed 1', "$title: it is dropped");
    all_is_well($title);
}

{
    my $title = 'unread bytes in transit';
    # A complete answer that nobody has asked for, some time after the first one.
    send_one($title, 'fault=extra&after=200');
    sleep 0.4;
    go_on();
    my $answer = $request->finish;
    is $answer->{body}, "connection 2 request 1\n", "$title: the foreign answer is not taken for one";
    become($status, 'u', 'given 1, dropped closed 1', "$title: it is dropped");
    all_is_well($title);
}

{
    my $title = 'the client has left';
    send_one($title);
    $request->abort;
    go_on();
    become($status, 'u', 'given 1, taken 1', "$title: it is taken");
    my $answer = ask($taker, '/u');
    is "$answer->{headers}{'x-connection'}:$answer->{headers}{'x-request'}", '1:2', "$title: and used for the next request";
    all_is_well($title);
}

{
    my $title = 'the taker is killed';
    send_one($title);
    $nginx->allow(qr/exited on signal 9/);
    kill KILL => $taker->{pid};
    is $request->finish->{status}, 0, "$title: its request is lost";
    ok wait_for { 2 == grep { $_ != $taker->{pid} } $nginx->workers }, "$title: another worker is there";
    become($status, 'u', 'given 1, taken 1', "$title: the next worker takes it");
    my ($next) = grep { $_->{pid} != $giver->{pid} } clients_of($port, $nginx);
    my $answer = ask($next, '/u');
    is "$answer->{headers}{'x-connection'}:$answer->{headers}{'x-request'}", '1:2', "$title: and uses it";
    all_is_well($title, 1);
}

{
    my $title = 'the giver is killed';
    send_one($title);
    $nginx->allow(qr/exited on signal 9/);
    kill KILL => $giver->{pid};
    ok wait_for { my @now = $nginx->workers; @now == 2 && !grep { $_ == $giver->{pid} } @now }, "$title: another worker is there";
    go_on();
    my $answer = $request->finish;
    is "$answer->{headers}{'x-connection'}:$answer->{headers}{'x-request'}", '1:2', "$title: the connection arrives";
    become($status, 'u', 'given 1, taken 1', "$title: counted");
    all_is_well($title);
}

{
    my $title = 'both are killed';
    send_one($title);
    $nginx->allow(qr/exited on signal 9/);
    my %old = map { $_->{pid} => 1 } $giver, $taker;
    kill KILL => keys %old;
    ok wait_for { 2 == grep { !$old{$_} } $nginx->workers }, "$title: two others are there";
    become($status, 'u', 'given 1, taken 1', "$title: one of them takes it");
    is statuses(map { begin($port, "/u?n=$_") } 1 .. 10), '200 x 10', "$title: they serve";
    all_is_well($title, 1);
}

{
    my $title = 'a reload in transit';
    send_one($title);
    my @old = $nginx->reload;
    # Old workers may still get some of them.
    my @more = map { begin($port, "/u?n=$_") } 1 .. 10;
    sleep 0.1;
    go_on();
    is $request->finish->{status}, 200, "$title: the request is answered";
    is statuses(@more), '200 x 10', "$title: and so are others";
    ok is_gone(@old), "$title: the old workers are gone";
    my @two = map { begin($port, "/u?delay=100&n=$_") } 1, 2;
    is statuses(@two), '200 x 2', "$title: requests are answered afterwards";
    # Each configuration counts for itself.
    cmp_ok $backend->stats->{max_open}, '<=', 2, "$title: never more than one connection of each configuration";
    $status->consistent("$title: the counters agree");
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "$title: no connection is left";
}

# Many are in transit when the taker is killed; the descriptors are all closed in the end.
{
    my $title = 'many in transit';
    $backend->reset;
    $nginx = handover_nginx($port, { u => "zone u 64k; $server max_conns=8; keepalive 8; queue 20 timeout=10s;" })->start;
    $nginx->allow(qr/exited on signal 9/);
    my @workers = $nginx->workers;
    ($giver, $taker) = map { { port => $port, pid => $_, socket => (connections_to($port, $_, 1))[0] } } @workers;
    $spare = (connections_to($port, $giver->{pid}, 1))[0];
    my @from = connections_to($port, $giver->{pid}, 8);
    my @to = connections_to($port, $taker->{pid}, 8);
    my @held = map { begin($port, "/u?delay=300&n=$_", over => $_) } @from;
    wait_for { $backend->stats->{requests} == 8 };
    my @waits = map { begin($port, "/u?n=$_", over => $_) } @to;
    wait_for { told()->{queue}{size} == 8 };
    kill STOP => $taker->{pid};
    is statuses(@held), '200 x 8', "$title: eight requests end";
    ok wait_for { told()->{given} >= 1 }, "$title: connections are given";
    sleep 0.1;
    diag "$title: " . handed(told());
    kill KILL => $taker->{pid};
    is statuses(@waits), '0 x 8', "$title: the taker is killed, with the requests that wait in it";
    ok wait_for { 2 == grep { $_ != $taker->{pid} } $nginx->workers }, "$title: another worker is there";
    is statuses(map { begin($port, "/u?delay=200&n=$_") } 1 .. 8), '200 x 8', "$title: eight at once";
    my @nine = map { begin($port, "/u?delay=200&n=$_") } 1 .. 9;
    is statuses(@nine), '200 x 9', "$title: nine";
    is $backend->stats->{max_open}, 8, "$title: never more than eight connections";
    agree($status, "$title: the counters agree", 8);
    $backend->drop;
    ok wait_for { established($backend->port) == 0 }, "$title: no connection is left in nginx";
    $nginx->stop;
}

# Before it is given: a worker that hangs is asked for a connection to which something has happened meanwhile.
for my $what ('close', 'reset', 'extra') {
    my $title = "$what, before it is given";
    $backend->reset;
    $nginx = handover_nginx($port, { u => "$server; keepalive 4;" })->start;
    ($giver, $taker) = clients_of($port, $nginx);
    my $answer = ask($giver, $what eq 'extra' ? '/u?fault=extra&after=200' : '/u');
    is $answer->{body}, "connection 1 request 1\n", "$title: a connection";
    settled();
    kill STOP => $giver->{pid};
    $what eq 'extra' ? sleep 0.3 : $backend->drop($what);
    is ask($taker, '/u')->{body}, "connection 2 request 1\n", "$title: another worker has asked in vain";
    kill CONT => $giver->{pid};
    settled();
    my @bodies = map { my $client = $_; map { ask($client, '/u')->{body} } 1 .. 3 } $giver, $taker;
    is scalar(grep { !/\Aconnection [2-9] request \d\n\z/ } @bodies), 0, "$title: each request has its own answer" or diag explain \@bodies;
    my $handed = handed(Keepalive::Status->new($port)->json->{upstreams}{u});
    unlike $handed, qr/dropped/, "$title: it was not given ($handed)";
    $status->consistent("$title: the counters agree");
    $nginx->stop;
}

# The new worker has too few connections, or descriptors, for all that the old one has.
for my $case (['connections', connections => 24], ['descriptors', main => 'worker_rlimit_nofile 34;']) {
    my ($what, %changes) = @$case;
    my $number = 30;
    $backend->reset;
    $nginx = handover_nginx($port, { u => "$server; keepalive 64;" }, workers => 1)->start;
    $nginx->allow(qr/Too many open files|worker_connections are not enough/);
    is ask_all($port, '/u', $number), "200 x $number", "few $what: $number connections";
    $nginx->configure(%changes);
    reload_to_end($nginx);
    my $told;
    wait_for { $told = $status->json->{upstreams}{u}; $told->{handover}{in_transit} == 0 };
    my $lost = $told->{handover}{dropped}{resources};
    my $kept = $number - $lost;
    cmp_ok $lost, '>', 0, "few $what: $lost are dropped for want of $what";
    is handed($told), "given $number, taken $told->{taken}" . ", dropped resources $lost", "few $what: each was taken or dropped";
    ok wait_for { $backend->stats->{open} == $status->json->{upstreams}{u}{keepalive} }, "few $what: those are closed";
    is statuses(map { get($port, "/u?n=$_") } 1 .. 20), '200 x 20', "few $what: requests are answered";
    $status->consistent("few $what: the counters agree");
    $nginx->stop;
    ok wait_for { !$backend->stats->{open} }, "few $what: no connection is left";
}

done_testing;
