# http2: a server that has fallen silent is found by PING, and its connection is given up for all requests at once; a server that
# is only slow is left in peace. All takes place at the same time.
#
# faults: F5.1 "silent with requests in flight: GET is sent again" "silent while idle: the next POST is answered"
# faults: F22.5 "silent with requests in flight: POST fails" "is not given up"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Streams;

needs_module();

my %server = map { $_ => Keepalive::Streams->start } qw(flight post idle slow talking well);
$server{mute} = Keepalive::Streams->start(connection => 'accept=silent');
$server{late} = Keepalive::Streams->start(connection => 'late=3000');
my $port = free_port();
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %server) {
    $upstreams .= "upstream $name { server @{[ $server{$name}->address ]}; keepalive 4;\n    keepalive_timeout 120s; http2 on connections=1; }\n";
    $locations .= "location /$name { proxy_pass http://$name; }\n";
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_connect_timeout 60s;
proxy_read_timeout 60s;
log_format times '\$uri \$status \$request_time';
$upstreams
server {
    listen 127.0.0.1:$port;
    location = /settled { return 200; }
    $locations
}
END

my %post = (method => 'POST', body => 'x' x 100, timeout => 60);
my $begun = time;

# The connections of two servers fall silent when they have answered, and that of a third one stays as it is.
get($port, "/$_?fault=silent&at=end") for qw(idle);
get($port, "/$_") for qw(flight post slow talking well);

# Requests that are answered after half a second; but then nothing comes any more.
my %silenced;
for my $name (qw(flight post)) {
    my @options = $name eq 'post' ? %post : (timeout => 60);
    $silenced{$name} = [map { begin($port, "/$name?delay=500&n=$_", @options) } 1 .. 10];
    ok wait_for { $server{$name}->http2->{open} == 10 }, "$name: ten requests are on their way";
    get($port, "/$name?fault=silent&at=start&then=hang", timeout => 0.1);
}
# A server that thinks for long, and one that does not answer PING but talks.
my $slow = begin($port, '/slow?delay=26000', timeout => 60);
my $talking = begin($port, '/talking?len=1000&drip=1000&pieces=20', timeout => 60);
my $mute = begin($port, '/mute', %post);
my $late = begin($port, '/late?body=late', %post);

is $late->finish->{body}, 'late', 'SETTINGS that come after three seconds are waited for';

# Those that were idle for longer than ten seconds.
sleep 12 - (time - $begun);
my $pings = $server{well}->http2->{frames}{ping};
my $asked = time;
my $answer = get($port, '/idle?id=once', %post);
is $answer->{status}, 200, 'silent while idle: the next POST is answered';
cmp_ok time - $asked, '<', 6, 'soon';
is join(', ', $answer->{headers}{'x-connection'} // '-', $server{idle}->stats->{ids}), '2, 1', 'over a new connection, once';
$answer = get($port, '/well', %post);
is "$answer->{status} $answer->{headers}{'x-connection'}", '200 1', 'a healthy server that was idle: over the connection of before';
cmp_ok $server{well}->http2->{frames}{ping} - $pings, '<=', 1, 'with one PING at most';

# Those whose server has fallen silent.
my @answers = map { $_->finish } @{ $silenced{flight} };
my $took = time - $begun;
is statuses(@answers), '200 x 10', 'silent with requests in flight: GET is sent again';
cmp_ok $took, '<', 25, 'and all of them before long';
@answers = map { $_->finish } @{ $silenced{post} };
like statuses(@answers), qr/^50[24] x 10$/, 'silent with requests in flight: POST fails';
cmp_ok time - $begun, '<', 25, 'all at once';
like $mute->finish->{status}, qr/^50[24]$/, 'a server that never says anything: the request fails';
cmp_ok time - $begun, '<', 40, 'before proxy_connect_timeout';

is length $talking->finish->{body}, 1000, 'a server that sends slowly is not given up';
is $slow->finish->{status}, 200, 'nor one that thinks for long';
is scalar($server{slow}->carriers), 1, 'its connection is the same';
my $frames = ($server{slow}->carriers)[0]{frames};
cmp_ok $frames->{ping}, '>=', 1, 'it was asked whether it is there';
cmp_ok $frames->{ping}, '<=', 3, 'but not often';
like $nginx->error_log, qr/RFC 9113, section 6\.7/, 'the log says why the others were given up';

# All are well again.
for my $name (qw(flight post idle)) {
    is get($port, "/$name")->{status}, 200, "$name: the next request is answered";
}
$_->rules_are_kept for values %server;
$nginx->stop;
done_testing;
