# Requests wait while nginx reloads, exits or upgrades its binary: every request that may stay is served.
#
# faults: F13.3 "reload: all are served" "reload without queue: those who waited are served"
# faults: F14.2 "QUIT: all that wait are served" "TERM: nobody is answered"
# faults: F14.4 "upgrade: all are served"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();

sub nginx {
    my ($zone, %options) = @_;
    $backend->reset;
    return queue_nginx($port, { u => 'server ' . $backend->address
        . " max_conns=2; $zone keepalive 2; keepalive_timeout 1h; queue 100 timeout=20s;" }, %options)->start;
}

# Two requests hold the server (for some milliseconds, or 'for ever'), so many others wait, each for an answer that takes
# 20 ms.
sub crowd {
    my ($time, $number) = @_;
    my $script = $time eq 'for ever' ? 'fault=hang&at=start' : "delay=$time";
    my $before = $backend->stats->{requests};
    my @requests = map { begin($port, "/u?$script&n=$_") } 1, 2;
    ok wait_for { $backend->stats->{requests} >= $before + 2 }, 'two requests hold the server';
    push @requests, map { begin($port, "/u?delay=20&n=$_") } 3 .. $number + 2;
    settle($port);
    return @requests;
}

# Reloads, and waits until the old worker takes no clients any more.
sub reload {
    my ($nginx) = @_;
    my $before = () = $nginx->error_log =~ /gracefully shutting down/g;
    my @old = $nginx->reload;
    ok wait_for { $before < (() = $nginx->error_log =~ /gracefully shutting down/g) }, 'the old worker is to go';
    settle($port);
    return @old;
}

for my $zone ('', 'zone u 64k;') {
    my $title = $zone ? 'zone' : 'no zone';

    # QUIT: all are served, over the connections that were there, and the worker exits soon after the last one.
    {
        my $nginx = nginx($zone);
        my @requests = crowd(300, 50);
        my ($worker) = $nginx->workers;
        $nginx->signal('QUIT');
        is statuses(@requests), '200 x 52', "$title, QUIT: all that wait are served";
        my $answered = time;
        ok wait_for { !Keepalive::Nginx::is_alive($worker) }, "$title, QUIT: the worker exits";
        cmp_ok time - $answered, '<', 2, "$title, QUIT: soon after";
        is $backend->stats->{accepted}, 2, "$title, QUIT: connections were handed on to the end";
        ok wait_for { !$backend->stats->{open} }, "$title, QUIT: and closed";
        $nginx->stop;
    }

    # QUIT while all clients leave.
    {
        my $nginx = nginx($zone);
        my @requests = crowd('for ever', 20);
        $nginx->signal('QUIT');
        sleep 0.05;
        $_->abort for reverse @requests;
        my $left = time;
        $nginx->stop;
        cmp_ok time - $left, '<', 2, "$title, QUIT: the worker does not wait for those who left";
    }

    # Reload, three times: the old workers serve their waiting requests, the new one starts with none.
    {
        my $nginx = nginx($zone);
        my (@requests, @old);
        for my $round (1 .. 3) {
            push @requests, crowd(400, 20);
            push @old, reload($nginx);
        }
        push @requests, map { begin($port, '/u') } 1 .. 10;
        is statuses(@requests), '200 x 76', "$title, reload: all are served";
        ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, "$title, reload: the old workers are gone";
        ok wait_for { $backend->stats->{open} <= 2 }, "$title, reload: only the last pool is left";
        my @held = map { begin($port, "/u?delay=300&n=$_") } 1, 2;
        settle($port);
        get($port, '/u?n=counts');
        my @line = log_of($nginx, '/u?n=counts');
        cmp_ok $line[0]{queue}, '>', 0.1, "$title, reload: max_conns is in force afterwards";
        $_->finish for @held;
        $nginx->stop;
    }

    # A reload that takes the queue away concerns newcomers only.
    {
        my $nginx = nginx($zone);
        my @requests = crowd(400, 10);
        my $http = $nginx->{http};
        $nginx->configure(http => $http =~ s/ queue 100 timeout=20s;//r);
        my @old = reload($nginx);
        my @held = map { begin($port, "/u?delay=300&n=$_") } 1, 2;
        settle($port);
        is get($port, '/u')->{status}, 502, "$title, reload without queue: newcomers are refused";
        is statuses(@requests, @held), '200 x 14', "$title, reload without queue: those who waited are served";
        $nginx->configure(http => $http);
        push @old, reload($nginx);
        is statuses(crowd(100, 10)), '200 x 12', "$title, reload with queue again";
        $nginx->configure(http => $http, module => 0);
        $nginx->configure(http => $http =~ s/ queue 100 timeout=20s;//r =~ s/\$upstream_queue_time/-/r);
        @requests = crowd(300, 10);
        push @old, reload($nginx);
        is statuses(@requests), '200 x 12', "$title, reload without the module: those who waited are served";
        ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, "$title, reload without the module: the old workers go";
        is get($port, '/u')->{status}, 200, "$title, reload without the module: nginx serves";
        $nginx->stop;
    }

    # TERM waits for no request.
    {
        my $nginx = nginx($zone);
        my @requests = crowd('for ever', 20);
        my $begun = time;
        $nginx->stop('TERM');
        cmp_ok time - $begun, '<', 2, "$title, TERM: quick";
        is statuses(@requests), '0 x 22', "$title, TERM: nobody is answered";
        ok wait_for { !$backend->stats->{open} }, "$title, TERM: no connection is left";
    }

    # worker_shutdown_timeout ends the requests that are not finished.
    {
        my $nginx = nginx($zone, main => 'worker_shutdown_timeout 500ms;');
        my @requests = crowd(200, 5);
        push @requests, begin($port, '/u?fault=hang&at=start&n=a'), begin($port, '/u?fault=hang&at=start&n=b');
        settle($port);
        push @requests, map { begin($port, "/u?never=$_") } 1 .. 3;
        settle($port);
        my $begun = time;
        $nginx->signal('QUIT');
        my @answers = map { $_->finish } @requests;
        is statuses(@answers[0 .. 6]), '200 x 7', "$title, worker_shutdown_timeout: served in time";
        is scalar(grep { $_->{status} == 200 } @answers[7 .. 11]), 0, "$title, worker_shutdown_timeout: not served";
        cmp_ok time - $begun, '>', 0.4, "$title, worker_shutdown_timeout: not before its time";
        cmp_ok time - $begun, '<', 3, "$title, worker_shutdown_timeout: but then at once";
        $nginx->stop;
        ok wait_for { !$backend->stats->{open} }, "$title, worker_shutdown_timeout: no connection is left";
    }

    # Binary upgrade, and the old binary goes while requests wait in both.
    {
        my $nginx = nginx($zone);
        my @requests = crowd(600, 20);
        my $old = $nginx->pid;
        $nginx->signal('USR2', $old);
        ok wait_for { ($nginx->pid // $old) != $old && $nginx->workers($nginx->pid) == 1 }, "$title, upgrade: the new binary runs";
        $nginx->signal('WINCH', $old);
        ok wait_for { $nginx->error_log =~ /gracefully shutting down/ }, "$title, upgrade: the old worker is to go";
        push @requests, map { begin($port, "/u?delay=20&n=new$_") } 1 .. 20;
        $nginx->signal('QUIT', $old);
        is statuses(@requests), '200 x 42', "$title, upgrade: all are served";
        ok wait_for { !Keepalive::Nginx::is_alive($old) }, "$title, upgrade: the old binary is gone";
        cmp_ok $backend->stats->{max_open}, '<=', 4, "$title, upgrade: each binary kept to max_conns";
        $nginx->stop;
    }
}

done_testing;
