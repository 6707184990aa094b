# http2 with grpc_pass, and a real server and client of gRPC: calls of each kind, deadlines and cancelled calls, over one connection
# to the server, whatever its limit of streams.
#
# about: protocols

use strict;
use warnings;

use IPC::Open2 qw(open2);
use Test::More;

use lib 't/lib';
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no gRPC' unless has_feature('with-http_v2_module');
# A distribution's package is for its own Python.
my ($python) = grep { system("$_ -c 'import grpc' 2>/dev/null") == 0 } qw(python3 /usr/bin/python3);
plan skip_all => 'Python has no grpc (grpcio)' unless $python;
diag 'grpcio ', `$python -c 'import grpc; print(grpc.__version__)'` =~ s/\s+\z//r;

my %streams = (unlimited => 0, hundred => 100, ten => 10, one => 1);
my (%server, %input);
my ($blocks, $servers) = ('', '');
my %port = map { $_ => free_port() } keys %streams;
my ($parameter, $directive) = version_at_least('1.25.1') ? ('', 'http2 on;') : (' http2', '');
for my $name (sort keys %streams) {
    open2(my $output, $input{$name}, $python, 't/lib/grpc-peer.py', 'server', $streams{$name});
    $server{$name} = <$output> // BAIL_OUT('the gRPC server does not start');
    chomp $server{$name};
    $blocks .= "upstream $name { server 127.0.0.1:$server{$name}; keepalive 4; http2 on connections=1; }\n";
    $servers .= "server { listen 127.0.0.1:$port{$name}$parameter; $directive location / { grpc_pass grpc://$name; } }\n";
}
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
client_max_body_size 0;
keepalive_requests 100000;
grpc_read_timeout 60s;
$blocks
$servers
END
my ($worker) = $nginx->workers;

for my $name (sort keys %streams) {
    open my $client, '-|', "$python t/lib/grpc-peer.py client $port{$name} $streams{$name} </dev/null" or die "$python: $!";
    my $cases = 0;
    while (my $line = <$client>) {
        chomp $line;
        my ($is_ok, $case, $reason) = $line =~ /^(not )?ok ([^:]+)(?:: (.*))?$/ or next;
        ok !$is_ok, "a limit of $streams{$name}: $case" or diag $reason;
        $cases++;
    }
    close $client;
    is $cases, 15, "a limit of $streams{$name}: all cases";
    is established($server{$name}, $worker), 1, "a limit of $streams{$name}: over one connection";
}
is join(' ', $nginx->workers), $worker, 'the worker has lived on';
$nginx->stop;
done_testing;
