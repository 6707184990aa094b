# The master does not pay for what only workers use: with thousands of upstreams it needs hardly more memory than with the stock
# module, and no more after each reload.
#
# faults: F15.3 "at most a quarter more than the stock module" "and no more with each reload"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $RELOADS = 6;

# The memory of the master in kB, first and after each reload, with this many upstreams that contain these lines.
sub master_memory {
    my ($title, $module, $upstreams, $inside) = @_;
    my $blocks = join '', map { sprintf "upstream u$_ { %s }\n", $inside =~ s/%s/u$_/r } 1 .. $upstreams;
    my $nginx = Keepalive::Nginx->new(module => $module, http => <<"END")->start;
$proxy_keepalive
$blocks
server { listen 127.0.0.1:$port; location / { proxy_pass http://u7; } }
END
    my @memory = memory_of($nginx->pid);
    for (1 .. $RELOADS) {
        my @old = $nginx->reload;
        ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, "$title: the old workers have gone";
        push @memory, memory_of($nginx->pid);
    }
    # What is not reserved is not missing either: it is there once it is needed.
    $backend->reset;
    is statuses(map { begin($port, "/?n=$_&delay=20") } 1 .. 4), '200 x 4', "$title: served";
    is statuses(map { get($port, "/?n=$_") } 1 .. 4), '200 x 4', "$title: and again";
    cmp_ok $backend->stats->{accepted}, '<=', 4, "$title: over the same connections" if $module;
    $nginx->stop;
    return @memory;
}

my $server = 'server ' . $backend->address;
my @cases = (
    ['keepalive 32', 2000, "$server; keepalive 32;"],
    ['per_server', 500, "$server; keepalive 32 per_server;", "$server; keepalive 32;"],
    ['max_conns, queue', 1000, "$server max_conns=4; keepalive 32; queue 1000;", "$server max_conns=4; keepalive 32;"],
    ['zone', 200, "zone %s 128k; $server max_conns=4; keepalive 32; queue 1000;", "zone %s 128k; $server max_conns=4; keepalive 32;"],
);
# Without any directive each upstream has a pool.
push @cases, ['the default', 2000, "$server;"] if default_is_on();

for my $case (@cases) {
    my ($title, $upstreams, $ours, $stock) = @$case;
    my @stock = master_memory("$title, stock", 0, $upstreams, $stock || $ours);
    my @ours = master_memory($title, 1, $upstreams, $ours);
    note "$title: stock @stock kB, ours @ours kB";
    my ($most) = sort { $b <=> $a } @stock[1 .. $RELOADS];
    memory_is_below $ours[0], $stock[0] * 1.25, "$title: at most a quarter more than the stock module (kB)";
    memory_is_below +(sort { $b <=> $a } @ours)[0], $most * 1.25, "$title: after reloads as well (kB)";
    memory_is_below $ours[$RELOADS] - $ours[2], $ours[2] / 50 + 512, "$title: and no more with each reload (kB more)";
}

done_testing;
