# A server closes each connection after 3 ms without a request, and POSTs arrive just then: only those that can have arrived are
# lost, and none arrives twice. Runs in a network namespace of its own, whose kernel counters no other process changes.
#
# faults: F1.4 "what was lost had come when the server closed" "what is answered came once, and nothing else came"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;
use Time::HiRes qw(sleep);

use IO::Select;
use IO::Socket::INET;
use POSIX ();

use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;
system('ip', 'link', 'set', 'lo', 'up') == 0 or die 'there is no loopback';
plan skip_all => 'the kernel does not count what it resets' unless defined aborted();

my ($clients, $rounds) = (4, 1000);
my $port = free_port();
my %upstreams = (checked => '', unchecked => 'keepalive_check off;');
my ($blocks, $locations, %server) = ('', '');
for my $name (sort keys %upstreams) {
    for my $client (map { "$name$_" } 1 .. $clients) {
        $server{$client} = start_server($client);
        $blocks .= "upstream $client { server 127.0.0.1:$server{$client}{port}; keepalive 1; $upstreams{$name} }\n";
        $locations .= "location /$client { proxy_pass http://$client; }\n";
    }
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
keepalive_requests 1000000;
$blocks
server {
    listen 127.0.0.1:$port;
    add_header X-Keepalive \$upstream_keepalive_status always;
    $locations
}
END

# How many connections the kernel has reset so far because their program closed them with something unread. A server that
# closes in the very moment in which the request comes is one of these, and proves nothing.
sub aborted {
    open my $in, '<', '/proc/net/netstat' or return;
    my ($names, $values) = map { [split] } grep { /^TcpExt:/ } <$in>;
    my %count;
    @count{@$names} = @$values;
    return $count{TCPAbortOnClose};
}

# A server for one connection at a time. It notes the name of each request, and answers it.
sub start_server {
    my ($name) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => free_port(), Listen => 50, ReuseAddr => 1)
        or die "$!";
    my $record = work_dir() . "/$name.record";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        my $parent = getppid;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM);
        $SIG{PIPE} = 'IGNORE';
        open my $out, '>', $record or die "$record: $!";
        $out->autoflush(1);
        my $waiting = IO::Select->new($listener);
        while (getppid == $parent) {
            my $socket = $waiting->can_read(0.5) && $listener->accept or next;
            my $select = IO::Select->new($socket);
            my $bytes = '';
            # The first request may take its time.
            for (my $wait = 1; $select->can_read($wait); $wait = 0.003) {
                sysread $socket, $bytes, 4096, length $bytes or last;
                $bytes =~ /\r\n\r\nx$/ or redo;
                my ($id) = $bytes =~ /^POST \S+id=(\d+)/;
                print $out "$id\n";
                syswrite $socket, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                $bytes = '';
            }
            close $socket;
        }
        POSIX::_exit(0);
    }
    return { pid => $pid, port => $listener->sockport, record => $record };
}

# POSTs one after the other, each when the server is about to close: a little earlier than the last time if that found the
# connection closed, and a little later if not. Prints what became of each.
sub race {
    my ($client) = @_;
    my ($wait, $socket) = (0.003, undef);
    for my $id (1 .. $rounds) {
        my $request = begin($port, "/$client?id=$id", method => 'POST', body => 'x', keep_alive => 1,
            $socket ? (over => $socket) : ());
        my $answer = Keepalive::Client::parse($request->receive);
        $socket = $answer->{status} == 200 ? $request->{socket} : undef;
        my $how = $answer->{headers}{'x-keepalive'} // '-';
        print "$id $answer->{status} $how\n";
        $wait += { HIT => 2e-5, MISS => -2e-5 }->{$how} // 0;
        sleep $wait + rand 4e-5;
    }
}

for my $name (sort keys %upstreams) {
    my $before = aborted();
    my %reader;
    for my $client (map { "$name$_" } 1 .. $clients) {
        my $pid = open($reader{$client}, '-|') // die "fork: $!";
        if (!$pid) {
            $| = 1;
            race($client);
            POSIX::_exit(0);
        }
    }
    my (%seen, @lost, @wrong);
    for my $client (sort keys %reader) {
        my $reader = $reader{$client};
        my %answer = map { /^(\d+) (\d+) (.+)$/ ? ($1 => [$2, $3]) : () } <$reader>;
        close $reader;
        is keys %answer, $rounds, "$client: all have an answer";
        open my $in, '<', $server{$client}{record} or die $!;
        my %came;
        $came{ $_ + 0 }++ while <$in>;
        $seen{"@{ $answer{$_} }"}++ for keys %answer;
        push @lost, map { "$client $_" } grep { $answer{$_}[0] != 200 } keys %answer;
        push @wrong, map { "$client $_" } grep { ($came{$_} // 0) != ($answer{$_}[0] == 200 ? 1 : 0) } keys %answer;
    }
    is "@wrong", '', "$name: what is answered came once, and nothing else came";
    my $aborted = aborted() - $before;
    cmp_ok scalar(@lost), '<=', $aborted, "$name: what was lost had come when the server closed";
    cmp_ok $seen{'200 STALE, MISS'} // 0, '>', 0, "$name: some met a connection that was being closed";
    note explain { %seen, aborted => $aborted };
}

$nginx->stop;
kill KILL => map { $_->{pid} } values %server;
waitpid $_->{pid}, 0 for values %server;
done_testing;
