# Reloads that add, remove and add again the load_module line, under load: no request fails, and the right module works.
#
# faults: F14.1 "requests failed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(module => 0, workers => 2, http => <<"END")->start;
upstream backend { server @{[ $backend->address ]}; keepalive 8; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END

# Whether a process has our module in its memory.
sub is_mapped {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/maps" or return 0;
    my $name = module_path();
    return scalar grep { /\Q$name\E/ } <$in>;
}

ok !is_mapped(($nginx->workers)[0]), 'at first the module is not there';
my $load = Keepalive::Load->start($port, clients => 4, request => sub { $_[0] % 3 ? '/' : '/?delay=10' });
ok $load->wait_for_more(50), 'the load has begun';

for my $module (1, 0, 1, 1, 0, 1) {
    $nginx->configure(module => $module);
    my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the old workers are gone';
    SKIP: {
        skip 'a module with sanitizers is not unloaded', 2 if is_sanitized() && !$module;
        my $mapped = grep { is_mapped($_) } $nginx->workers;
        is $mapped, $module ? 2 : 0, $module ? 'the line is there: both workers use the module' : 'the line is gone: none does';
        is !!is_mapped($nginx->pid), !!$module, 'and so it is with the master';
    }
    ok $load->wait_for_more(50), 'the load goes on';

    # Eight idle connections per worker serve it all, whichever module it is.
    my $before = $backend->stats;
    ok $load->wait_for_more(100), 'and on';
    my $after = $backend->stats;
    my ($connections, $requests) = map { $after->{$_} - $before->{$_} } qw(accepted requests);
    cmp_ok $connections, '<', $requests / 4, "$connections new connections for $requests requests";
}

my ($answers, @failures) = $load->stop;
is_deeply \@failures, [], "none of $answers requests failed";
$nginx->stop;
done_testing;
