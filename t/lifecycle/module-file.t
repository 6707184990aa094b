# The module's file is replaced while nginx runs: a reload keeps the old one. A binary upgrade loads the new one, and so do two
# reloads of which the first has no load_module line.
#
# faults: F14.1 "the file was replaced"

use strict;
use warnings;

use File::Copy qw(copy);
use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $file = work_dir() . '/module.so';

# Puts a new copy of the module in place, as scripts/build does; returns the number of its inode.
sub replace {
    copy(module_path(), "$file.new") && rename("$file.new", $file) or die "$file: $!";
    return (stat $file)[1];
}

# The inode of the module that a process has in its memory; 0 without one.
sub mapped {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/maps" or return 0;
    my %inodes = map { m{^\S+ \S+ \S+ \S+ (\d+) +\Q$file\E(?: \(deleted\))?$} ? ($1 => 1) : () } <$in>;
    return join ' ', sort keys %inodes;
}

replace();
my $original = (stat $file)[1];
my $backend = Keepalive::Backend->start;
my $port = free_port();
my $http = <<"END";
upstream backend { server @{[ $backend->address ]}; keepalive 8; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END
my $line = "load_module $file;\n";
my $nginx = Keepalive::Nginx->new(module => 0, main => $line, http => $http)->start;
my $load = Keepalive::Load->start($port, clients => 2);
ok $load->wait_for_more(20), 'the load has begun';

sub reload { my ($main) = @_; $nginx->configure(main => $main); $nginx->reload; return }

sub all_map {
    my ($inode, $name) = @_;
    is_deeply [map { mapped($_) } $nginx->pid, ($nginx->workers)[-1]], [$inode, $inode], $name;
}

my $new = replace();
isnt $new, $original, 'the file was replaced';
ok +($nginx->test)[0], 'nginx -t takes the new file';
reload($line);
all_map($original, 'after a reload nginx has the old one');

SKIP: {
    skip 'sanitizers need the file until the end, to name its functions', 2 if is_sanitized();
    reload('');
    ok wait_for { !mapped($nginx->pid) }, 'a reload without the line: none';
    reload($line);
    all_map($new, 'and with the line again: the new one');
}

$new = replace();
my $old_master = $nginx->pid;
$nginx->signal('USR2', $old_master);
ok wait_for { ($nginx->pid('.oldbin') // 0) == $old_master && ($nginx->pid // $old_master) != $old_master && $nginx->workers },
    'a binary upgrade';
all_map($new, 'takes up the new one');
$nginx->signal('QUIT', $old_master);
ok wait_for { !Keepalive::Nginx::is_alive($old_master) }, 'the old master is gone';
ok $load->wait_for_more(20), 'the load goes on';

my ($answers, @failures) = $load->stop;
is_deeply \@failures, [], "none of $answers requests failed";
$nginx->stop;
done_testing;
