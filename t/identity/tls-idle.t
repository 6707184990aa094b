# An idle TLS connection becomes readable although the server has sent no data: a late session ticket of TLS 1.3, or new keys.
# The module reads it and keeps the connection; the stock module closes it. Both close it after close_notify. No request fails
# in any case. The tickets that OpenSSL sends by itself arrive before the first answer: neither module closes because of them.
#
# faults: F18.2 "goodbye, at checkout: a new connection is used" "goodbye_along"
# faults: F18.3 "OpenSSL as it is: one connection carries all" "a ticket right behind the answer: all are answered"
# faults: F18.3 "the connection stays" "at checkout: the connection is used"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');
my $program = work_dir() . '/tls-server';
plan skip_all => 'there is no C compiler, or OpenSSL has no headers'
    if system("cc -Wall -o $program t/lib/tls-server.c -lssl -lcrypto >$program.log 2>&1") != 0;

my ($certificate, $key) = self_signed('localhost');
my $port = free_port();
my %running;
END { local $?; kill KILL => keys %running }

sub tls_server {
    my ($what, $milliseconds) = @_;
    my $pid = open my $output, '-|', $program, $certificate, $key, $what, $milliseconds or die "$program: $!";
    $running{$pid} = $output;
    my $its_port = <$output> // die 'the TLS server does not start';
    chomp $its_port;
    return $its_port;
}

# What a server sends, and after how many milliseconds.
my %servers = (none => ['nothing', 0], at_once => ['ticket', 0], late => ['ticket', 100], update => ['update', 100],
    goodbye => ['goodbye', 100], update_along => ['update', 0], data_along => ['data', 0], goodbye_along => ['goodbye', 0]);
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %servers) {
    my $server = 'server 127.0.0.1:' . tls_server(@{ $servers{$name} }) . ';';
    $upstreams .= "upstream $name { $server keepalive 4; }\n";
    $locations .= "location /$name { proxy_pass https://$name; }\n";
    next unless is_ours();
    $upstreams .= "upstream unchecked_$name { $server keepalive 4; keepalive_check off; }\n";
    $locations .= "location /unchecked/$name { proxy_pass https://unchecked_$name; }\n";
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_ssl_protocols TLSv1.3;
proxy_buffer_size 4k;
$upstreams
server { listen 127.0.0.1:$port; $locations }
END
my ($worker) = $nginx->workers;

# So many requests, half a second apart: which connection has carried them, as which of its requests, in which session.
sub carried {
    my ($path, $number, @options) = @_;
    my @carried;
    for my $n (1 .. $number) {
        sleep 0.5 if $n > 1;
        my $answer = get($port, $path, @options);
        push @carried, ($answer->{headers}{'x-name'} // '') =~ /^connection (\d+) request (\d+) session (.)$/ ? "$1:$2$3" : "status $answer->{status}";
    }
    return join ' ', @carried;
}

# The tickets that come by themselves.
is carried('/none', 4), '1:1. 1:2. 1:3. 1:4.', 'OpenSSL as it is: one connection carries all';
# A ticket right after the answer may be read together with it.
my @at_once = split ' ', carried('/at_once', 10);
is scalar(grep { /^\d+:\d+[.r]$/ } @at_once), 10, "a ticket right behind the answer: all are answered (@at_once)";
# What comes while the connection is idle.
for my $name (qw(late update goodbye)) {
    my $stays = is_ours() && $name ne 'goodbye';
    is carried("/$name", 3, method => 'POST'), $stays ? '1:1. 1:2. 1:3.' : '1:1. 2:1r 3:1r', "$name: "
        . ($stays ? 'the connection stays' : 'each request has a new connection, and resumes the session');
}

# Data that TLS has read from the socket together with the answer, and that is still unread: the socket does not report it.
SKIP: {
    skip 'needs the module', 1 unless is_ours();
    is carried("/$_", 3, method => 'HEAD'), '1:1. 1:2. 1:3.', "$_, HEAD: the connection stays" for 'update_along';
    is surprise("/$_"), 'the same', "$_: and is used by a request that comes at once" for qw(at_once update_along);
    for my $name (qw(data_along goodbye_along)) {
        is carried("/$name", 3, method => 'HEAD'), '1:1. 2:1r 3:1r', "$name, HEAD: the connection is closed";
        my @names = map { get($port, "/$name", method => 'HEAD')->{headers}{'x-name'} } 1 .. 10;
        is scalar(grep { /request 1 session r$/ } @names), 10, "$name: and so is each of ten, one right after the other" or diag "@names";
    }
}

# It comes at the moment at which a request does, and nginx reads the request first.
sub surprise {
    my ($path) = @_;
    my $first = get($port, $path)->{body};
    my $client = begin($port, '/nowhere', keep_alive => 1);
    $client->receive;
    kill STOP => $worker;
    my $request = begin($port, $path, over => $client->{socket});
    sleep 0.4;
    kill CONT => $worker;
    my ($before, $after) = map { /^connection (\d+) request (\d+)/ ? [$1, $2] : [0, 0] } $first, $request->finish->{body};
    sleep 0.3;
    return $after->[0] == $before->[0] && $after->[1] == $before->[1] + 1 ? 'the same'
        : $after->[0] > $before->[0] && $after->[1] == 1 ? 'a new one' : "$after->[0]:$after->[1]";
}
SKIP: {
    skip 'needs the module', 1 unless is_ours();
    is surprise("/$_"), 'the same', "$_, at checkout: the connection is used" for qw(late update);
    is surprise('/goodbye'), 'a new one', 'goodbye, at checkout: a new connection is used';
    is surprise("/unchecked/$_"), 'the same', "$_, at checkout, keepalive_check off: it is used" for qw(late update);
    is surprise('/unchecked/goodbye'), 'a new one', 'goodbye, at checkout, keepalive_check off: it is sent again';
}
my @errors = grep { /\[(?:error|crit|alert)\]/ && !m{/nowhere|GET /unchecked/goodbye} } split /\n/, $nginx->error_log;
is "@errors", '', 'nothing has failed';

$nginx->stop;
done_testing;
