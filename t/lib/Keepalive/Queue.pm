package Keepalive::Queue;

# For the files about the wait queue: an nginx with upstreams to wait for, and its times and sockets.

use strict;
use warnings;

use Exporter qw(import);

use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

our @EXPORT = qw(queue_nginx settle connections_to afresh hold_listener statuses carried_by log_of established socket_inodes);

my $count = 0;

# queue_nginx($port, { name => 'inside of upstream name' }, locations => '...', http => '...')
#
# /name is proxied to upstream `name`. `locations` is added to the server block, `inside` to every /name, `http` to the
# http block; `listen` to the listen directive; all other options are those of Keepalive::Nginx.
sub queue_nginx {
    my ($port, $upstreams, %options) = @_;
    my ($locations, $inside, $http, $listen) = map { delete $options{$_} // '' } qw(locations inside http listen);
    my $log = work_dir() . '/requests' . ++$count . '.log';
    my $blocks = join '', map { "upstream $_ {\n$upstreams->{$_}\n}\n" } sort keys %$upstreams;
    my $passes = join '', map { "location /$_ { proxy_pass http://$_; $inside }\n" } sort keys %$upstreams;
    # Without the module the variable does not exist.
    my $queue_time = is_ours() ? '$upstream_queue_time' : '-';
    my $nginx = Keepalive::Nginx->new(connections => 4096, %options, http => <<"END");
$proxy_keepalive
log_format times '\$request_uri|\$status|\$upstream_status|$queue_time|\$upstream_connect_time|\$upstream_header_time'
    '|\$upstream_response_time|\$request_time|\$upstream_addr';
$http
$blocks
server {
    listen 127.0.0.1:$port $listen;
    access_log $log times;
    location = /settled { access_log off; return 200 settled; }
    location = /pid { access_log off; return 200 \$pid; }
    $locations
    $passes
}
END
    $nginx->{requests_log} = $log;
    return $nginx;
}

# Returns when a single worker has read all requests that were sent before, since it accepts clients in the order of their
# arrival. With several workers, this holds for the worker of these two connections.
sub settle {
    my ($port, @connections) = @_;
    begin($port, '/settled', over => shift @connections)->finish for 1, 2;
}

# This many connections to one of several workers (with reuseport): begin($port, $path, over => $connection) sends that worker
# a request.
sub connections_to {
    my ($port, $pid, $number) = @_;
    my @connections;
    for (1 .. 100 * $number) {
        return @connections if @connections == $number;
        my $request = begin($port, '/pid', keep_alive => 1);
        push @connections, $request->{socket} if $request->receive =~ /\r\n\r\n$pid\z/;
    }
    die "there are no connections to worker $pid\n";
}

# Closes the idle connections to these backends, and resets the counters, which would not count older connections.
sub afresh {
    my ($port, @backends) = @_;
    for my $backend (@backends) {
        $backend->drop;
        wait_for { !grep { $backend->stats($_)->{open} } 0 .. $#{ $backend->{addresses} } };
    }
    settle($port);
    $_->reset for @backends;
}

# A request that occupies this listener of the backend, by a script in its URI. If another listener gets it, which answers at
# once, it is sent again.
sub hold_listener {
    my ($backend, $listener, $port, $uri) = @_;
    for (1 .. 10) {
        my ($before, $of_all) = ($backend->requests($listener), $backend->requests);
        my $request = begin($port, "$uri&only=$listener");
        wait_for { $backend->requests > $of_all } or last;
        return $request if $backend->requests($listener) > $before;
        $request->finish;
    }
    die "listener $listener is not asked\n";
}

# The statuses of the answers to these requests, with the number of each: '200 x 3, 502 x 1'.
sub statuses {
    my %seen;
    $seen{ ref $_ eq 'HASH' ? $_->{status} : $_->finish->{status} }++ for @_;
    return join ', ', map { "$_ x $seen{$_}" } sort keys %seen;
}

# The number of the connection of an answer and of the request on it, as one number to compare: this is the order in which the
# server got the requests, if it never has two connections at a time.
sub carried_by {
    my ($answer) = @_;
    return ($answer->{headers}{'x-connection'} // 0) * 100000 + ($answer->{headers}{'x-request'} // 0);
}

# The log lines of requests for this URI (a prefix), as hashes: status, upstream_status, queue, connect, header,
# response, request, addr.
sub log_of {
    my ($nginx, $uri) = @_;
    open my $in, '<', $nginx->{requests_log} or return;
    my @lines = grep { /\n\z/ && index($_, $uri) == 0 } <$in>;
    chomp @lines;
    return map {
        my %line;
        @line{qw(uri status upstream_status queue connect header response request addr)} = split /\|/;
        \%line;
    } @lines;
}

# The number of established connections to a port on 127.x.x.x, on the client's side; with a pid only that process's.
sub established {
    my ($port, $pid) = @_;
    my %own = $pid ? map { $_ => 1 } socket_inodes($pid) : ();
    my $remote = sprintf ':%04X', $port;
    open my $in, '<', '/proc/net/tcp' or die "/proc/net/tcp: $!";
    # The kernel may list a connection twice while others come and go.
    my %found;
    while (my $line = <$in>) {
        my (undef, $from, $to, $state, undef, undef, undef, undef, undef, $inode) = split ' ', $line;
        next if $to !~ /7F\Q$remote\E$/ || $state ne '01';
        $found{"$from $to"} = 1 if !$pid || $own{$inode};
    }
    return scalar keys %found;
}

# The inodes of the sockets that a process has open.
sub socket_inodes {
    my ($pid) = @_;
    return map { (readlink($_) // '') =~ /^socket:\[(\d+)\]/ ? $1 : () } glob "/proc/$pid/fd/*";
}

1;
