# keepalive_hint: the next request takes longer to reach a distant server, so its idle connections are closed earlier. If no
# request can reach it in time, they are not kept, and the log says so.
#
# faults: F11.5 "closed sooner by that"

use strict;
use warnings;

use lib 't/lib';
use Keepalive::Link;

my $missing;
BEGIN { $missing = Keepalive::Link::enter() }

use Test::More;
use Time::HiRes qw(sleep time);

use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => $missing if $missing;

my $far = $Keepalive::Link::FAR;

for my $round_trip (300, 1000) {
    my $link = Keepalive::Link->start(delay => $round_trip / 2);
    SKIP: {
        skip 'the kernel does not permit such a link', 1 unless $link;
        my $backend = Keepalive::Backend->start(host => $far, within => [$link->within]);
        my $port = free_port();
        my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream far  { server @{[ $backend->address ]}; keepalive 4; }
upstream read { server @{[ $backend->address ]}; keepalive 4; keepalive_hint on margin=100ms; }
server {
    listen 127.0.0.1:$port;
    location /far { proxy_pass http://far/; }
    location /read { proxy_pass http://read/; }
}
END
        my $without = $nginx->descriptors;
        # How long nginx keeps an idle connection.
        my $idle_time = sub {
            my ($path) = @_;
            wait_for { $nginx->descriptors <= $without } or diag 'a connection is left';
            get($port, "$path?header=Keep-Alive:timeout%3D1");
            my $begun = time;
            sleep 0.005 while $nginx->descriptors > $without && time - $begun < 3;
            return time - $begun;
        };
        my $warnings = sub { return scalar(() = $nginx->error_log =~ /\[warn\].*$_[0]/g) };
        if ($round_trip < 1000) {
            my $took = $idle_time->('/far');
            ok $took > 0.4 && $took < 0.85, "a round trip of $round_trip ms: closed sooner by that" or diag $took;
            is get($port, '/far?header=Keep-Alive:timeout%3D1')->{headers}{'x-request'}, $_, "request $_ of its connection" for 1, 2, 3;
            is $warnings->('no connection is used again'), 0, 'nothing to be warned of';
        } else {
            my $took = $idle_time->('/far');
            ok $took < 0.4, "a round trip of $round_trip ms: closed at once" or diag $took;
            is $warnings->('a round trip of 1\d\d\dms to upstream "far" leaves nothing of the 1s that the server announces: '
                . 'no connection is used again'), 1, 'the log says why';
        }
        my $took = $idle_time->('/read');
        ok $took > 0.8 && $took < 1.4, "a round trip of $round_trip ms: a margin that was written holds" or diag $took;
        $nginx->stop;
        $backend->stop;
    }
}

done_testing;
