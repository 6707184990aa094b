# Binary upgrade (USR2, WINCH, QUIT) and the way back (HUP, QUIT), under load: no request fails.
#
# faults: F14.4 "requests failed"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();

my $nginx = Keepalive::Nginx->new(workers => 2, http => <<"END")->start;
upstream backend { server @{[ $backend->address ]}; keepalive 8; keepalive_timeout 1h; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://backend; $proxy_keepalive }
}
END

# Starts the new binary beside the old one; returns the pids of both masters.
sub upgrade {
    my $old = $nginx->pid;
    $nginx->signal('USR2', $old);
    ok wait_for { ($nginx->pid('.oldbin') // 0) == $old && ($nginx->pid // $old) != $old }, 'the new master is there';
    my $new = $nginx->pid;
    ok wait_for { $nginx->workers($new) == 2 }, 'and so are its workers';
    return ($old, $new);
}

my $load = Keepalive::Load->start($port, clients => 4, request => sub { $_[0] % 3 ? '/' : '/?delay=10' });
ok $load->wait_for_more(50), 'the load has begun';

# Forward.
my ($old, $new) = upgrade();
ok $load->wait_for_more(50), 'both generations serve';
$nginx->signal('WINCH', $old);
ok wait_for { !$nginx->workers($old) }, 'the old workers are gone';
ok $load->wait_for_more(50), 'the new generation serves';
$nginx->signal('QUIT', $old);
ok wait_for { !Keepalive::Nginx::is_alive($old) }, 'the old master is gone';

# And back: the second upgrade is taken back while its workers already serve.
($old, $new) = upgrade();
$nginx->signal('WINCH', $old);
ok wait_for { !$nginx->workers($old) }, 'the old workers are gone';
ok $load->wait_for_more(50), 'the new generation serves';
$nginx->signal('HUP', $old);
ok wait_for { $nginx->workers($old) == 2 }, 'the old master has workers again';
$nginx->signal('QUIT', $new);
ok wait_for { !Keepalive::Nginx::is_alive($new) }, 'the new master is gone';
ok wait_for { ($nginx->pid // 0) == $old }, 'the pid file names the old one again';
ok $load->wait_for_more(50), 'the old generation serves';

my ($answers, @failures) = $load->stop;
is_deeply \@failures, [], "none of $answers requests failed";
ok wait_for { $backend->stats->{open} <= 16 }, 'only the pools of two workers are left';

$backend->reset;
get($port, '/') for 1 .. 20;
cmp_ok $backend->stats->{accepted}, '<=', 2, 'connections are used again';

$nginx->stop;
done_testing;
