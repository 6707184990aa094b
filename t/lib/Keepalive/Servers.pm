package Keepalive::Servers;

# Servers that others have written, each with an idle limit of its own, for t/stale/learn-servers.t. nginx itself is always there;
# the others are taken as far as this machine has them. A server that keeps no account of its requests hands them on to the scripted
# backend.

use strict;
use warnings;

use Exporter qw(import);
use IO::Socket::INET;
use IPC::Open2 qw(open2);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

use Keepalive::Backend;
use Keepalive::Nginx;
use Keepalive::Setup;

our @EXPORT = qw(start_servers came_twice);

my $apache_modules = '/usr/lib/apache2/modules';
my (@children, @kept);

# start_servers($host, @within): on this address; @within is a command that runs them elsewhere. Returns the servers, as
#
#   { name, address, limit, longest, each_second, announces, requests }
#
# `limit` and `longest` are the times in seconds between which it closes idle connections, those with `each_second` when a second
# begins; `announces` says whether it tells the client. One with `requests` closes after so many, and speaks FastCGI.
sub start_servers {
    my ($host, @within) = @_;
    my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 4], within => @within ? \@within : undef);
    push @kept, $backend;
    my $listener = 0;
    my $behind = sub {
        my $number = $listener++;
        return (backend => $backend, listener => $number, behind => $backend->address($number));
    };
    my @servers = ({ name => 'nginx', limit => 0.9, start => \&nginx, $behind->() });
    if ((`node --version 2>/dev/null` // '') =~ /^v\d/) {
        # Some versions add a second, for the client, and cannot be told not to.
        push @servers, { name => 'silent', limit => 0.7, longest => 1.8, start => \&node },
            { name => 'node', limit => 1, longest => 2.1, announces => 1, start => \&node };
    }
    push @servers, { name => 'haproxy', limit => 1.2, start => \&haproxy, $behind->() } if program('haproxy');
    # At one second, the shortest and the longest time would differ too much.
    push @servers, { name => 'lighttpd', limit => 2, longest => 3.1, each_second => 1, start => \&lighttpd, $behind->() } if program('lighttpd');
    # It looks for all connections whose time comes within the next tenth of a second.
    push @servers, { name => 'apache', limit => 0.95, longest => 1.15, start => \&apache, $behind->() }
        if program('apache2') && -f "$apache_modules/mod_mpm_event.so";
    push @servers, { name => 'php', requests => 50, start => \&php } if php_program();
    for my $server (@servers) {
        $server->{folder} = work_dir() . "/$server->{name}";
        mkdir $server->{folder} or die "$server->{folder}: $!";
        @$server{qw(host within port)} = ($host, \@within, free_port());
        $server->{longest} //= ($server->{limit} // 0) + 0.1;
        $server->{start}->($server);
        $server->{address} = "$host:$server->{port}";
    }
    for my $server (@servers) {
        ok wait_for { IO::Socket::INET->new(PeerAddr => $host, PeerPort => $server->{port}, Timeout => 1) }, "$server->{name} has started"
            or diag read_file("$server->{folder}/output");
    }
    return @servers;
}

# The number of requests whose argument `id` another request had before.
sub came_twice {
    my ($server) = @_;
    return $server->{backend}->stats($server->{listener})->{ids_again} if $server->{backend};
    my %seen;
    return scalar grep { $seen{$_}++ } split /\n/, read_file("$server->{folder}/ids");
}

sub nginx {
    my ($server) = @_;
    push @kept, Keepalive::Nginx->new(module => 0, within => $server->{within}, http => <<"END")->start;
keepalive_timeout @{[ 1000 * $server->{limit} ]}ms;
keepalive_requests 1000000;
server { listen $server->{host}:$server->{port}; location / { proxy_pass http://$server->{behind}; } }
END
}

sub node {
    my ($server) = @_;
    local $ENV{IDS} = "$server->{folder}/ids";
    my $pid = open2(my $output, my $input, @{ $server->{within} }, 'node', 't/lib/node-server.js', 1000 * $server->{limit}, $server->{host},
        $server->{announces} ? 'announcing' : 'silent');
    push @children, $pid;
    push @kept, $input;
    my $port = <$output> // BAIL_OUT('Node.js does not start');
    chomp($server->{port} = $port);
}

sub haproxy {
    my ($server) = @_;
    run($server, 'haproxy', '-db', '-f', configuration($server, <<"END"));
defaults
    mode http
    option http-server-close
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout http-request 60s
    timeout http-keep-alive @{[ 1000 * $server->{limit} ]}ms
frontend front
    bind $server->{host}:$server->{port}
    default_backend behind
backend behind
    server one $server->{behind}
END
}

sub lighttpd {
    my ($server) = @_;
    my ($address, $port) = split /:/, $server->{behind};
    run($server, 'lighttpd', '-D', '-f', configuration($server, <<"END"));
server.modules = ("mod_proxy")
server.document-root = "$server->{folder}"
server.bind = "$server->{host}"
server.port = $server->{port}
server.max-keep-alive-idle = $server->{limit}
server.max-keep-alive-requests = 60000
proxy.server = ("" => (("host" => "$address", "port" => $port)))
END
}

sub apache {
    my ($server) = @_;
    my $modules = join '', map { "LoadModule ${_}_module $apache_modules/mod_$_.so\n" } qw(mpm_event authz_core proxy proxy_http);
    # It refuses to serve as root.
    my $user = $> == 0 ? "User nobody\nGroup nogroup" : '';
    run($server, 'apache2', '-DFOREGROUND', '-f', configuration($server, <<"END"));
ServerRoot $server->{folder}
ServerName localhost
PidFile $server->{folder}/apache.pid
DefaultRuntimeDir $server->{folder}
ErrorLog $server->{folder}/output
Listen $server->{host}:$server->{port}
$modules
$user
StartServers 1
MinSpareThreads 1
MaxSpareThreads 200
ThreadsPerChild 100
ThreadLimit 100
MaxRequestWorkers 200
KeepAlive On
KeepAliveTimeout @{[ 1000 * ($server->{limit} + 0.1) ]}ms
MaxKeepAliveRequests 0
ProxyPass / http://$server->{behind}/ disablereuse=On
END
}

sub php {
    my ($server) = @_;
    my $folder = $server->{folder};
    open my $out, '>', "$folder/index.php" or die "$folder/index.php: $!";
    print $out <<'END';
<?php
file_put_contents(__DIR__ . '/ids', ($_GET['id'] ?? '-') . "\n", FILE_APPEND);
header('Content-Length: 2');
echo 'ok';
END
    close $out;
    my ($user, @root) = $> == 0 ? ("user = root\ngroup = root", '-R') : ('');
    run($server, php_program(), '-F', @root, '-c', '/dev/null', '-y', configuration($server, <<"END"));
[global]
error_log = $folder/output
daemonize = no
[www]
$user
listen = $server->{host}:$server->{port}
pm = static
pm.max_children = 6
pm.max_requests = $server->{requests}
END
}

sub program { my ($name) = @_; return grep { -x "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin' }

sub php_program { my @found = sort grep { -x } glob '/usr/sbin/php-fpm[0-9]*'; return $found[-1] }

sub configuration {
    my ($server, $text) = @_;
    my $file = "$server->{folder}/configuration";
    open my $out, '>', $file or die "$file: $!";
    print $out $text;
    close $out or die "$file: $!";
    return $file;
}

# Starts a program that ends with this test.
sub run {
    my ($server, $program, @arguments) = @_;
    local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
        open STDIN, '<', '/dev/null' or die $!;
        open STDOUT, '>>', "$server->{folder}/output" or die $!;
        open STDERR, '>&', \*STDOUT or die $!;
        exec @{ $server->{within} }, $program, @arguments or POSIX::_exit(1);
    }
    push @children, $pid;
}

sub read_file {
    my ($file) = @_;
    open my $in, '<', $file or return '';
    local $/;
    return <$in> // '';
}

my $owner = $$;

END {
    local ($?, $!);
    if ($owner == $$) {
        kill TERM => @children;
        for my $pid (@children) {
            my $ended = sub { waitpid $pid, POSIX::WNOHANG() };
            next if wait_for { $ended->() };
            kill KILL => $pid;
            waitpid $pid, 0;
        }
    }
}

1;
