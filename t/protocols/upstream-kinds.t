# Upstreams made for one request from a resolved name have no pool; those beside them do. And upstreams whose servers are all
# down, or unavailable for a while: idle connections do not change that, and they are still there afterwards.
#
# faults: F17.1 "a name that is resolved for each request has none"
# faults: F17.3 "the single server of an upstream stays in service"
# faults: F17.4 "it is out of service, though a connection is idle" "as the log says"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Names;
use Keepalive::Nginx;
use Keepalive::Setup;

my ($port, $common, $closed) = map { free_port() } 1 .. 3;
my $backend = Keepalive::Backend->start(listen => ["127.0.0.1:$common", "127.0.0.2:$common"]);
my ($one, $two) = map { 'server ' . $backend->address($_) } 0, 1;
my $names = Keepalive::Names->start('127.0.0.1');

sub answers { my ($path, $number, @options) = @_; return map { get($port, $path, @options) } 1 .. $number }
sub statuses { return join ' ', map { $_->{status} } @_ }
sub carried { return join ' ', map { join ':', @{ $_->{headers} }{qw(x-connection x-request)} } @_ }

for my $zone ('', 'zone %s 64k;') {
    my $title = $zone ? 'zone' : 'no zone';
    my $at = sub { my ($name) = @_; return $zone && sprintf $zone, $name };
    my %upstreams = (
        pool     => "$one; keepalive 4;",
        down     => "$one down; $two down; keepalive 4;",
        no_backup => "$one down; $two backup down; keepalive 4;",
        backup   => "$one down; $two backup; keepalive 4;",
        refused  => "server 127.0.0.1:$closed; server 127.0.0.2:$closed; keepalive 4;",
        fails    => "$one max_fails=1 fail_timeout=1s; $two down; keepalive 4;",
        single   => "$one max_fails=1 fail_timeout=30s; keepalive 4;",
    );
    my $blocks = join '', map { "upstream $_ { $upstreams{$_} @{[ $at->($_) ]} }\n" } sort keys %upstreams;
    my $locations = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %upstreams;
    my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
resolver 127.0.0.1:@{[ $names->port ]} valid=1s ipv6=off;
$blocks
server {
    listen 127.0.0.1:$port;
    $locations
    location /named { set \$name \$arg_name; proxy_pass http://\$name.test:$common; }
}
END
    $backend->drop;
    wait_for { !grep { $backend->stats($_)->{open} } 0, 1 };
    $backend->reset;

    # A name that is resolved for the request: nginx makes an upstream for it, whose server is one of the pool as well.
    $names->now_at('127.0.0.1');
    is carried(answers('/pool', 2)), '1:1 1:2', "$title: a pool";
    is carried(answers('/named?name=one', 3)), '2:1 3:1 4:1', "$title: a name that is resolved for each request has none";
    is carried(answers('/pool', 1)), '1:3', "$title: nor takes it anything of the other's";
    is statuses(answers('/named?name=one&fault=close&at=start', 2)), '502 502', "$title: a name, and a server that closes";
    is statuses(answers('/named?name=two', 1, method => 'POST', body => 'x')), '200', "$title: a name, POST";
    $names->now_at('127.0.0.1', '127.0.0.2');
    is statuses(answers('/named?name=three&fault=close&at=start&only=0', 4)), '200 200 200 200', "$title: a name of two servers, of which one closes";
    $names->now_at('127.0.0.9');
    is statuses(answers('/named?name=four', 2)), '502 502', "$title: a name, and nobody there";
    ok wait_for { $backend->stats(0)->{open} == 1 }, "$title: only the pool's connection is left";

    # Nobody is up.
    is statuses(answers("/$_", 2)), '502 502', "$title, $_" for qw(down no_backup refused);
    for my $name (qw(down no_backup refused)) {
        like $nginx->error_log, qr/no live upstreams while connecting to upstream[^\n]*GET \/$name /, "$title, $name: as the log says";
    }
    my $accepted = $backend->stats(1)->{accepted};
    is statuses(answers('/backup', 3)), '200 200 200', "$title: only the backup server is up";
    is $backend->stats(1)->{accepted}, $accepted + 1, "$title: over one connection";

    # One that is out of service for a second, while a connection to it is idle.
    my @held = map { begin($port, "/fails?delay=200&n=$_") } 1, 2;
    my @first = map { $_->finish } @held;
    is statuses(answers('/fails?fault=close&at=header&from=2', 1)), '502', "$title: the only server fails on one of two connections";
    is statuses(answers('/fails', 2)), '502 502', "$title: it is out of service, though a connection is idle";
    sleep 2.1;
    my ($again) = answers('/fails', 1);
    is $again->{headers}{'x-request'}, 2, "$title: when it is back, that connection is used";

    # An upstream of one server never is.
    is statuses(answers('/single', 1), answers('/single?fault=close&at=header&from=2', 1, method => 'POST', body => 'x'), answers('/single', 1)), '200 502 200',
        "$title: the single server of an upstream stays in service";
    $nginx->stop;
}
done_testing;
