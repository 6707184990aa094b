package Keepalive::Nginx;

# A whole nginx with master and workers: for concurrency, signals, and the error log from start to exit.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use Keepalive::Setup;

my $count = 0;
my @running;

# Keepalive::Nginx->new(http => '...', main => '...', workers => 1, log_level => 'info', module => 1, within => [])
#
# `http` is the inside of the http block. `text` is a whole configuration instead, in which only the settings of the machine are
# replaced: user, number of workers, module, and the paths of logs, pid and temporary files. `module` says whether our module is
# loaded (by default, if the run is with our module); `within` is a command that runs nginx elsewhere.
sub new {
    my ($class, %options) = @_;
    my $dir = work_dir() . '/nginx' . ++$count;
    mkdir $dir or die "$dir: $!";
    mkdir "$dir/$_" for qw(temp logs);
    my $self = bless { workers => 1, log_level => 'info', main => '', connections => 1024,
        module => is_ours(), allowed => [], %options, dir => $dir, owner => $$ }, $class;
    $self->configure;
    return $self;
}

# Writes the configuration file, with changes if any are given.
sub configure {
    my ($self, %changes) = @_;
    @$self{keys %changes} = values %changes;
    my $dir = $self->{dir};
    my $load = $self->{module}
        ? join '', map { "load_module $_;\n" } split ' ', $ENV{TEST_NGINX_LOAD_MODULES} : '';
    # The workers need access to unix sockets and folders of the user who runs the tests.
    my $user = $> == 0 ? 'user root;' : '';
    my $temp_paths = join '', map { "    ${_}_temp_path $dir/temp/$_;\n" }
        qw(client_body proxy fastcgi uwsgi scgi);
    open my $out, '>', "$dir/nginx.conf" or die "$dir/nginx.conf: $!";
    if (defined(my $text = $self->{text})) {
        $text =~ s/^load_module .*;$/$load/m;
        $text =~ s/^user .*;$/$user/m;
        $text =~ s/^worker_processes .*;$/worker_processes $self->{workers};/m;
        $text =~ s{/run/nginx\.pid}{$dir/nginx.pid}g;
        $text =~ s{/var/log/nginx/}{$dir/logs/}g;
        $text =~ s/^(http \{)$/$1\n$temp_paths/m;
        print $out $text;
        close $out or die "$dir/nginx.conf: $!";
        return;
    }
    print $out <<"END";
$load$self->{main}
daemon on;
$user
worker_processes $self->{workers};
pid $dir/nginx.pid;
error_log $dir/logs/error.log $self->{log_level};
events { worker_connections $self->{connections}; }
http {
    access_log off;
$temp_paths
$self->{http}
}
END
    close $out or die "$dir/nginx.conf: $!";
}

sub dir { $_[0]{dir} }

# Runs `nginx -t`: returns whether it succeeds, and its output.
sub test {
    my ($self) = @_;
    my $output = `@{[ $self->command('test.log') ]} -t 2>&1`;
    return ($? == 0, $output);
}

# Runs `nginx -t` on an http block: returns whether it accepts the block, and its messages of these levels, without the folder
# and with the text of a line instead of its number.
sub verdict {
    my ($self, $http, $levels) = @_;
    my $dir = $self->dir;
    $self->configure(http => $http);
    my ($accepted, $output) = $self->test;
    $levels ||= 'warn|emerg';
    my @messages = $output =~ /^nginx: \[(?:$levels)\] (.*)$/mg;
    s{\Q$dir\E/}{}, s/ in nginx\.conf:(\d+)/' in "' . $self->line($1) . '"'/e for @messages;
    return ($accepted, join "\n", @messages);
}

# A line of the configuration file, without blanks around it.
sub line {
    my ($self, $number) = @_;
    open my $in, '<', "$self->{dir}/nginx.conf" or die "$self->{dir}/nginx.conf: $!";
    my @lines = <$in>;
    return ($lines[$number - 1] // '(no such line)') =~ s/^\s+|\s+$//gr;
}

sub command {
    my ($self, $log) = @_;
    $log ||= 'error.log';
    return join(' ', @{ $self->{within} || [] }, nginx_binary()) . " -p $self->{dir} -e $self->{dir}/logs/$log -c $self->{dir}/nginx.conf";
}

sub start {
    my ($self) = @_;
    system($self->command) == 0 or BAIL_OUT("nginx does not start: " . $self->error_log);
    wait_for { $self->pid && $self->workers == $self->{workers} } or BAIL_OUT('nginx has no workers');
    push @running, $self;
    return $self;
}

# The pid of the master, or of `nginx.pid` plus a suffix such as '.oldbin'.
sub pid {
    my ($self, $suffix) = @_;
    open my $in, '<', "$self->{dir}/nginx.pid" . ($suffix || '') or return;
    my $pid = <$in>;
    chomp $pid if $pid;
    return $pid;
}

# The pids of the workers of a master, the current one if none is given.
sub workers {
    my ($self, $master) = @_;
    $master ||= $self->pid or return;
    open my $in, '<', "/proc/$master/task/$master/children" or return;
    # A binary started by USR2 is a child of the old master, but not a worker.
    return grep { command_line($_) =~ /worker process/ || $self->is_emulated_worker($_) } split ' ', <$in> // '';
}

# An emulated nginx (qemu) has no title; one that the loader has started has it behind the loader's name. Its other children are
# a binary started by USR2, and those that have to do with caches.
sub is_emulated_worker {
    my ($self, $pid) = @_;
    my $line = command_line($pid);
    return $line ne '' && $line !~ /nginx: / && $pid != ($self->pid // 0)
        && $self->error_log !~ /start cache \w+ process $pid$/m;
}

sub command_line {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/cmdline" or return '';
    local $/;
    return <$in> // '';
}

sub signal {
    my ($self, $signal, $pid) = @_;
    kill $signal => $pid || $self->pid;
}

# Reloads, and waits until the new workers are there; the old ones may still be finishing.
sub reload {
    my ($self) = @_;
    my %old = map { $_ => 1 } $self->workers;
    $self->signal('HUP');
    ok wait_for { $self->{workers} == grep { !$old{$_} } $self->workers }, 'new workers have started';
    return keys %old;
}

# Whether a process is alive (and no zombie).
sub is_alive {
    my ($pid) = @_;
    open my $in, '<', '/proc/' . ($pid // 'none') . '/stat' or return 0;
    # The process can end between open and read.
    return (<$in> // ') Z ') !~ /\) Z /;
}

# The number of open descriptors of a process, the first worker if none is given.
sub descriptors {
    my ($self, $pid) = @_;
    $pid ||= ($self->workers)[0];
    my @links = glob "/proc/$pid/fd/*";
    return scalar @links;
}

sub error_log {
    my ($self) = @_;
    open my $in, '<', "$self->{dir}/logs/error.log" or return '';
    local $/;
    return <$in>;
}

# Declares a message of level crit or worse as expected.
sub allow {
    my ($self, $pattern) = @_;
    push @{ $self->{allowed} }, $pattern;
}

# Stops nginx gracefully (or by another signal), and tests that it exits and that its log has no undeclared alert.
sub stop {
    my ($self, $signal) = @_;
    # Without a pid file nginx has exited already.
    my $pid = $self->pid;
    $self->signal($signal || 'QUIT', $pid) if $pid;
    my $gone = wait_for { !is_alive($pid) };
    ok $gone, 'nginx exits';
    $self->kill_all unless $gone;
    @running = grep { $_ != $self } @running;
    $self->check_error_log;
}

# Tests that the error log has no undeclared message of level crit, alert or emerg, and no crash.
sub check_error_log {
    my ($self) = @_;
    my @bad = grep { /\[(?:crit|alert|emerg)\]|exited on signal|open socket #\d+ left/ } split /\n/, $self->error_log;
    for my $pattern (@{ $self->{allowed} }) {
        @bad = grep { !/$pattern/ } @bad;
    }
    is join("\n", @bad), '', 'no undeclared alert in the error log';
}

# Kills the remaining processes of this nginx: masters of all generations, and their workers.
sub kill_all {
    my ($self) = @_;
    for my $pid (grep { $_ } $self->pid, $self->pid('.oldbin')) {
        kill KILL => $self->workers($pid), $pid if command_line($pid) =~ /\Q$self->{dir}\E/;
    }
}

# A test that dies must not leave an nginx running.
END {
    local ($?, $!);
    $_->kill_all for grep { $_->{owner} == $$ } @running;
}

1;
