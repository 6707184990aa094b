# The count behind `max_conns` does not drift: after thousands of requests of all kinds, successful, failed, refused, aborted,
# exactly max_conns requests can run at once.
#
# faults: F12.2 "three at once are allowed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my ($port, $closed) = map { free_port() } 1 .. 2;
my $one = 'server ' . $backend->address . ' max_conns=3 max_fails=0;';
my $dead = "server 127.0.0.1:$closed max_conns=1 max_fails=0;";

my %upstreams = (
    pool     => "$one keepalive 8;",
    small    => "$one keepalive 1;",
    no_pool  => $one,
    two      => "$dead $one keepalive 8;",
    is_ours() ? (
        queue       => "$one keepalive 8; queue 500 timeout=20s;",
        short_queue => "$one keepalive 8; queue 2 timeout=10ms;",
        no_pool_q   => "$one queue 500 timeout=20s;",
        two_queue   => "$dead $one keepalive 2; queue 500 timeout=20s;",
        other_bind  => "$one keepalive 8; queue 500 timeout=20s;",
    ) : (),
);

my @scripts = ('', 'len=0', 'status=204', 'framing=chunked', 'len=100000', 'delay=5', 'header=Connection:close',
    'fault=close', 'fault=reset', 'fault=extra', 'fault=close&at=start', 'fault=reset&at=header', 'framing=eof',
    'fault=close&at=body&len=5000', 'status=503', 'version=1.0', 'fault=close&from=2', 'fault=hang&at=start');

# Sends a request, and leaves before the answer is there.
sub leave {
    my ($name, $number) = @_;
    my $request = begin($port, "/$name?delay=20&n=$number");
    select undef, undef, undef, 0.002 * ($number % 4);
    $request->abort;
}

for my $case (['no zone', '', 1], ['zone', 'zone %s 64k;', 1], ['four workers', 'zone %s 64k;', 4]) {
    my ($title, $zone, $workers) = @$case;
    my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        log_level => 'warn', workers => $workers, listen => $workers > 1 ? 'reuseport' : '',
        http => 'map $arg_bind $bound { 1 127.0.0.31; 2 127.0.0.32; default 127.0.0.1; }',
        inside => 'proxy_bind $bound; proxy_read_timeout 200ms;')->start;
    for my $name (sort keys %upstreams) {
        $backend->drop;
        ok wait_for { $backend->stats->{open} == 0 }, "$title, $name: a fresh start";
        $backend->reset;
        my $load = Keepalive::Load->start($port, clients => 6, requests => 25, request => sub {
            my ($number, $client) = @_;
            leave($name, $number) if $number % 4 == $client % 4;
            my $bind = $name eq 'other_bind' ? $number % 3 : 0;
            my %options = $number % 5 ? () : (method => 'POST', body => 'x' x ($number % 3 ? 10 : 50000));
            return ("/$name?bind=$bind&" . $scripts[($number * 5 + $client) % @scripts], %options);
        });
        my ($answers) = $load->finish;
        is $answers, 150, "$title, $name: all requests of the load came to an end";
        ok wait_for { 0 == grep { !/^(?:200|204|502|503|504)$/ } map { get($port, "/$name")->{status} } 1, 2 },
            "$title, $name: nginx answers";
        # Whether the load used all of it depends on the machine; that three at once are possible is seen below.
        cmp_ok $backend->stats->{max_open}, '<=', 3, "$title, $name: the load never had more than max_conns" if is_ours();
        # nginx may notice a moment later that clients have left.
        my $free = wait_for { statuses(map { begin($port, "/$name?delay=20&n=$_") } 1 .. 3) eq '200 x 3' };
        ok $free, "$title, $name: three at once are allowed";
        my $expected = $name =~ /queue|_q|bind/ && $name ne 'short_queue' ? '200 x 4' : '200 x 3, 502 x 1';
        my @answers;
        # On a busy machine a read timeout can expire before the server answers; a drift would persist.
        for (1 .. 3) {
            $backend->reset;
            my @held = map { begin($port, "/$name?delay=120&n=$_") } 1 .. 4;
            @answers = map { $_->finish } @held;
            last if statuses(@answers) eq $expected;
        }
        is statuses(@answers), $expected,
            "$title, $name: a fourth one has to wait, or is refused";
    }
    $nginx->stop;
    ok wait_for { $backend->stats->{open} == 0 }, "$title: no connection is left";
}

done_testing;
