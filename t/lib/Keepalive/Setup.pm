package Keepalive::Setup;

# For every test file: which nginx runs, whether our module is loaded, and the file's own ports and folder.
#
# Use it before Test::Nginx::Socket, which reads its environment while it is loaded.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(basename);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Test::More ();
use Time::HiRes qw(sleep time);

our @EXPORT = qw(nginx_binary module_path is_ours needs_module version_at_least default_is_on
    has_feature has_module_file free_port work_dir wait_for is_sanitized memory_of memory_is_below $proxy_keepalive);

# The directives with which nginx keeps a connection to an HTTP server open, for http, server or location.
our $proxy_keepalive = 'proxy_http_version 1.1; proxy_set_header Connection "";';

my $binary  = find_program($ENV{TEST_NGINX_BINARY} || 'nginx');
my $modules = $ENV{TEST_NGINX_LOAD_MODULES} || '';
my $features = `$binary -V 2>&1`;
die "cannot run $binary: $!\n" if $?;
my ($version) = $features =~ m{nginx/([\d.]+)} or die "$binary -V tells no version\n";

my (@reservations, $next_port);
my $file  = basename($0, '.t');
my $dir   = make_work_dir();

# Every file has its own ports and its own folder, so that `prove -j` can run several files at once.
$ENV{TEST_NGINX_SERVROOT} = "$dir/servroot";
$ENV{TEST_NGINX_SERVER_PORT} = free_port();

# How long Test::Nginx waits for an answer, or for nginx to exit. A busy machine must not cause a failure.
$ENV{TEST_NGINX_TIMEOUT} ||= 5;

# Returns a path, since an nginx that upgrades its binary does not search PATH.
sub find_program {
    my ($name) = @_;
    return $name if $name =~ m{/};
    my ($path) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin';
    return $path || die "there is no $name in PATH\n";
}

# A test that gets a signal to stop, or whose `prove` has exited, cleans up first: the END blocks stop all its processes.
$SIG{$_} = sub { exit 1 } for qw(HUP INT PIPE TERM);

# The nginx that the tests run on.
sub nginx_binary { $binary }

# The path of our module; empty in a run with the stock module.
sub module_path { (split ' ', $modules)[0] || '' }

# Whether our module is loaded.
sub is_ours { $modules =~ /\S/ ? 1 : 0 }

# Skips the whole file in a run with the stock module.
sub needs_module { Test::More::plan(skip_all => 'needs the module') unless is_ours() }

# Whether nginx is of this version or a newer one.
sub version_at_least {
    my ($wanted) = @_;
    return pack('N3', split /\./, $version) ge pack('N3', split /\./, $wanted);
}

# Whether an upstream without any keepalive directive has a pool: since 1.29.7.
sub default_is_on { version_at_least('1.29.7') }

# Whether nginx was configured with this, e.g. 'with-http_v2_module'.
sub has_feature {
    my ($name) = @_;
    return $features =~ /--\Q$name\E(?![\w-])/;
}

# The paths of these files in nginx's modules folder, or the first path in scalar context; nothing if one does not exist, or if
# nginx does not load them in this order.
sub has_module_file {
    my (@names) = @_;
    my ($folder) = $features =~ /--modules-path=(\S+)/ or return;
    my @paths = map { "$folder/$_" } @names;
    return if grep { !-f } @paths;
    my $config = "$dir/module.conf";
    open my $out, '>', $config or die "$config: $!";
    print $out map({ "load_module $_; " } @paths), "pid $dir/module.pid; error_log stderr; events {}\n";
    close $out;
    return if system("$binary -t -p $dir -c $config >/dev/null 2>&1") != 0;
    return wantarray ? @paths : $paths[0];
}

# Whether nginx and the module were compiled with sanitizers (scripts/test --asan).
sub is_sanitized { $ENV{TEST_NGINX_SANITIZED} ? 1 : 0 }

# The resident memory of a process, in kB.
sub memory_of {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
    return join('', <$in>) =~ /^VmRSS:\s*(\d+)/m ? $1 : die 'no VmRSS';
}

# Tests that an amount of memory is below a limit. The sanitizers keep freed memory, to detect its use.
sub memory_is_below {
    my ($memory, $limit, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    SKIP: {
        Test::More::skip('the sanitizers need memory of their own', 1) if is_sanitized();
        Test::More::cmp_ok($memory, '<', $limit, $name);
    }
}

# The folder of this test file; it is removed at the end unless TEST_NGINX_NO_CLEAN is set.
sub work_dir { $dir }

sub make_work_dir {
    if (my $root = $ENV{TEST_NGINX_SERVROOT}) {
        make_path($root);
        return tempdir("$file-XXXX", DIR => abs_path($root), CLEANUP => !$ENV{TEST_NGINX_NO_CLEAN});
    }
    return tempdir("nginx-$file-XXXX", TMPDIR => 1, CLEANUP => !$ENV{TEST_NGINX_NO_CLEAN});
}

# Reserves twenty ports for this file, below the range from which the kernel takes ports for outgoing connections. A UDP socket
# on the first number holds all of them.
sub reserve_ports {
    for my $slot (0 .. 1099) {
        $next_port = 10000 + ($$ + $slot) % 1100 * 20;
        my $held = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $next_port, Proto => 'udp') or next;
        push @reservations, $held;
        return;
    }
    die "no free ports\n";
}

sub free_port {
    reserve_ports() unless @reservations;
    while (1) {
        my $port = $next_port++;
        reserve_ports() if $next_port % 20 == 0;
        return $port if IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
    }
}

# Waits until the block returns something true, and returns that; false if it takes longer than ten seconds.
sub wait_for (&) {
    my ($condition) = @_;
    my $deadline = time + 10;
    while (1) {
        my $result = $condition->();
        return $result if $result;
        return if time > $deadline;
        sleep 0.01;
    }
}

1;
