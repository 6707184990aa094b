# Warnings about a pool without effect: one for each upstream, cause and configuration, whatever the number of workers and
# requests, and none where it would be wrong.
#
# about: status

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $workers = 4;
my $port = free_port();
my %backend = map { ($_ => Keepalive::Backend->start(protocol => $_ eq 'proxy' ? 'http' : $_)) }
    qw(proxy fastcgi uwsgi scgi memcached);
my %server = map { ($_ => $backend{$_}->address) } keys %backend;
my $closed_port = free_port();

my $http_1_0     = 'requests are sent with HTTP/1.0; set proxy_http_version 1.1 and proxy_set_header Connection ""';
my $asks         = 'requests are sent with "Connection: close"; set proxy_set_header Connection ""';
my $fastcgi_asks = 'requests ask the server to close; set fastcgi_keep_conn on';
my $server_1_0   = 'the server answers with HTTP/1.0';
my $server_says  = 'the server answers "Connection: close"';

sub on { return qq(keepalive is on for upstream "X", but $_[0]) }

sub longer {
    my ($timeout, $announced) = @_;
    return qq(keepalive_timeout $timeout of upstream "X" is longer than the $announced that the server announces);
}

my $no_more = 'no connection is used again';
sub too_long { return qq(keepalive_hint margin=$_[0] of upstream "X" leaves nothing of the $_[1] that the server announces: $no_more) }
my $at_once = qq(the server announces "Keep-Alive: timeout=0": $no_more);

sub hint { return 'header=Keep-Alive:' . $_[0] =~ s/=/%3D/gr }

# Each case has an upstream and a location of its own: `upstream` is what stands beside the server, `location` is what
# the location has instead of what makes nginx keep connections, and `paths` are the scripts of the requests that each worker
# gets, one after the other. `says` are the warnings, of an upstream called X.
my $close = 'proxy_http_version 1.1; proxy_set_header Connection close;';
my $closing = 'header=Connection:close';
my @cases = (
    { name => 'fine' },
    { name => 'http_1_0', location => 'proxy_http_version 1.0;', says => [on($http_1_0)] },
    # A server that keeps the connection all the same.
    { name => 'http_1_0_alive', location => 'proxy_http_version 1.0; proxy_set_header Connection keep-alive;' },
    { name => 'http_1_0_answered', location => 'proxy_http_version 1.0;', paths => ["version=1.0&$closing"], says => [on($http_1_0)] },
    { name => 'asks', location => $close, says => [on($asks)] },
    { name => 'asks_among', location => $close =~ s/close/"TE , Close"/r, paths => [$closing], says => [on($asks)] },
    { name => 'asks_answered', location => $close, paths => [$closing], says => [on($asks)] },
    { name => 'asks_fails', location => $close, paths => ['fault=close&at=start'], answer => qr/50[24]/ },
    { name => 'asks_nearly', location => $close =~ s/close/closed/r },
    { name => 'asks_elsewhere', location => "$proxy_keepalive proxy_set_header X-Connection close;" },
    { name => 'server_1_0', paths => ['version=1.0'], says => [on($server_1_0)] },
    { name => 'server_1_0_alive', paths => ['version=1.0&header=Connection:keep-alive&stay=1'], says => [on($server_1_0)] },
    { name => 'server_closes', paths => [$closing], says => [on($server_says)] },
    { name => 'server_closes_among', paths => ['header=Connection:TE%2C%20CLOSE'], says => [on($server_says)] },
    { name => 'server_stays', paths => ["$closing&stay=1"], says => [on($server_says)] },
    # With its second response, because it has had enough of the connection or because it shuts down.
    { name => 'second', paths => ['', $closing, '', $closing] },
    # Without a word.
    { name => 'silent', paths => ['fault=close', 'fault=reset'] },
    { name => 'broken', paths => ['fault=close&at=start', 'fault=reset&at=header', 'fault=hang&at=header'],
      location => "$proxy_keepalive proxy_read_timeout 200ms;", answer => qr/50[24]/ },
    { name => 'no_length', paths => ['framing=eof'] },
    { name => 'no_body', paths => ['status=204', 'status=304', 'status=404'], answer => qr/204|304|404/ },
    { name => 'refused', paths => ['', ''], server => "server 127.0.0.1:$closed_port;", answer => qr/502/ },
    # Without a pool there is nothing to be warned of.
    { name => 'no_pool', upstream => 'keepalive 0;', location => 'proxy_http_version 1.0;', paths => [$closing] },
    { name => 'no_block', location => 'proxy_http_version 1.0;', pass => "proxy_pass http://$server{proxy}/" },
    # Two causes; and another upstream of the same server.
    { name => 'both', paths => ['version=1.0', $closing], says => [on($server_1_0), on($server_says)] },
    { name => 'twin', paths => [$closing], says => [on($server_says)] },

    { name => 'fastcgi', module => 'fastcgi', location => 'fastcgi_keep_conn on;' },
    { name => 'fastcgi_close', module => 'fastcgi', location => 'fastcgi_keep_conn off;', says => [on($fastcgi_asks)] },
    { name => 'fastcgi_no_pool', module => 'fastcgi', location => 'fastcgi_keep_conn off;', upstream => 'keepalive 0;' },
    { name => 'uwsgi', module => 'uwsgi' },
    { name => 'scgi', module => 'scgi' },
    { name => 'memcached', module => 'memcached' },

    # The server says how long it keeps connections.
    (map { (
        { name => "hint_short_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => [hint('timeout=5')], says => [longer('60s', '5s')] },
        { name => "hint_hour_$_", upstream => "keepalive 4; keepalive_timeout 2h; keepalive_hint $_;", paths => [hint('timeout=3600')],
          says => [longer('7200s', '3600s')] },
        { name => "hint_same_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => [hint('timeout=60')] },
        { name => "hint_long_$_", upstream => "keepalive 4; keepalive_timeout 5s; keepalive_hint $_;", paths => [hint('timeout=60')] },
        { name => "hint_max_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => [hint('max=5')] },
        # On a connection that was used before, whatever the server said then.
        { name => "hint_later_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => ['', hint('timeout=5')], says => [longer('60s', '5s')] },
        { name => "hint_less_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => [hint('timeout=60'), hint('timeout=5')],
          says => [longer('60s', '5s')] },
        { name => "hint_odd_$_", upstream => "keepalive 4; keepalive_hint $_;", paths => [hint('timeout=x')] },
    ) } qw(on off)),
    { name => 'hint_no_pool', upstream => 'keepalive 0;', paths => [hint('timeout=5')] },
    { name => 'hint_fastcgi', module => 'fastcgi', location => 'fastcgi_keep_conn on;', paths => [hint('timeout=5')] },
    # See below.
    { name => 'once', paths => ["status=500&$closing", '', '', ''], answer => qr/200|500/ },
    # Times are written as the configuration can have them.
    { name => 'hint_same_second', upstream => 'keepalive 4; keepalive_timeout 1500ms;', paths => [hint('timeout=1')],
        says => [longer('1500ms', '1s')] },
    { name => 'hint_parts', upstream => 'keepalive 4; keepalive_timeout 2500ms;', paths => [hint('timeout=1')], says => [longer('2500ms', '1s')] },
    { name => 'hint_no_second', upstream => 'keepalive 4; keepalive_timeout 500ms;', paths => [hint('timeout=0')],
        says => [on($at_once)] },
    { name => 'hint_zero', paths => [hint('timeout=0')], says => [on($at_once)] },
    { name => 'hint_zero_off', upstream => 'keepalive 4; keepalive_hint off;', paths => [hint('timeout=0')], says => [longer('60s', '0s')] },
    { name => 'hint_zero_max', paths => [hint('max=0')] },
    # By itself the margin leaves something of any time; one that was written is taken at its word.
    { name => 'hint_one', paths => [hint('timeout=1')], says => [longer('60s', '1s')] },
    { name => 'hint_margin', upstream => 'keepalive 4; keepalive_hint on margin=1s;', paths => [hint('timeout=1')],
        says => [too_long('1s', '1s')] },
    { name => 'hint_margin_ms', upstream => 'keepalive 4; keepalive_hint on margin=2500ms;', paths => [hint('timeout=2')],
        says => [too_long('2500ms', '2s')] },
    { name => 'hint_margin_less', upstream => 'keepalive 4; keepalive_hint on margin=999ms;', paths => [hint('timeout=1')],
        says => [longer('60s', '1s')] },
);

my ($blocks, $locations) = ('', '');
for my $case (@cases) {
    my ($name, $module) = ($case->{name}, $case->{module} // 'proxy');
    my $server = $case->{server} // "server $server{$module} max_fails=0;";
    $blocks .= "upstream $name { $server @{[ $case->{upstream} // 'keepalive 4;' ]} }\n" unless $case->{pass};
    my $pass = $case->{pass} // ($module eq 'proxy' ? "proxy_pass http://$name/" : "${module}_pass $name");
    my $location = $case->{location} // ($module eq 'proxy' ? $proxy_keepalive : '');
    $location .= ' set $memcached_key $request_uri;' if $module eq 'memcached';
    $location .= join '', map { " ${module}_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
        'CONTENT_LENGTH $content_length', 'QUERY_STRING $query_string' if $module =~ /gi$/;
    $locations .= "location /$name/ { $location $pass; }\n";
}

my $nginx = Keepalive::Nginx->new(workers => $workers, http => <<"END")->start;
$blocks
server {
    listen 127.0.0.1:$port reuseport;
    keepalive_requests 10000;
    location = /pid { return 200 \$pid; }
    $locations
}
END

# A client's connection to each worker.
sub clients { return map { connections_to($port, $_, 1) } $nginx->workers }

# A request to all workers at the same time. Returns the answers whose status is another one.
sub ask_all {
    my ($path, $status, @clients) = @_;
    my @requests = map { begin($port, $path, keep_alive => 1, over => $_) } @clients;
    return grep { !m{^HTTP/1\.1 $status } } map { $_->receive } @requests;
}

sub ask_everything {
    my @clients = clients();
    for my $case (@cases) {
        my @wrong = map { ask_all("/$case->{name}/?$_", $case->{answer} // 200, @clients) } @{ $case->{paths} || ['', ''] };
        is "@wrong", '', "$case->{name}: the requests are answered";
    }
    # What the workers had to write is written.
    ask_all('/pid', 200, @clients);
}

# All warnings so far, and how often each has come.
sub warnings_so_far {
    my %seen;
    $seen{$_}++ for $nginx->error_log =~ /\[warn\] \d+#\d+: \*\d+ (.*?)(?: while [^,]*)?, client: /g;
    return \%seen;
}

# Tests that each warning has come so often, and no other.
sub expect_warnings {
    my ($times, $title) = @_;
    my %expected;
    for my $case (@cases) {
        $expected{ s/"X"/"$case->{name}"/r } = $times for @{ $case->{says} || [] };
    }
    my $seen = warnings_so_far();
    delete $seen->{$_} for grep { /"once"/ } keys %$seen;
    is_deeply $seen, \%expected, $title or diag explain $seen;
}

ask_everything();
expect_warnings(1, 'each warning has come once');
ask_everything();
expect_warnings(1, 'more requests, no more warnings');

# Servers close the connection after an error, as nginx does after 400, 413 and 500.
is join('', grep { /"once"/ } keys %{ warnings_so_far() }), '', 'a server that closes once, with an error: no warning';

# A worker that takes the place of one that has died is no new configuration.
{
    my %before = map { $_ => 1 } my ($victim) = $nginx->workers;
    $nginx->allow(qr/exited on signal 9/);
    kill KILL => $victim;
    my @new;
    ok wait_for { @new = grep { !$before{$_} } $nginx->workers; @new == $workers }, 'a killed worker has a successor';
    ask_everything();
    expect_warnings(1, 'it does not say again what was said');
}

# After a reload the warning is logged again, once.
my @old = $nginx->reload;
ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the old workers are gone';
expect_warnings(1, 'a reload alone says nothing');
ask_everything();
expect_warnings(2, 'after a reload each warning has come once more');
ask_everything();
expect_warnings(2, 'and not again');

$nginx->stop;

# `nginx -t` warns of a pool that is too small.
my $tested = Keepalive::Nginx->new(http => '');

sub too_small {
    my ($connections, $servers) = @_;
    return qq(keepalive is on for upstream "u", but its pool of $connections is smaller than the $servers servers; set keepalive )
        . qq($servers or more, or a smaller number per_server in "upstream u {");
}

sub servers { return join ' ', map { "server 127.0.0.1:$_;" } 1 .. $_[0] }

for my $case (
    ['fewer servers',              servers(3) . ' keepalive 4;',                    ''],
    ['as many',                    servers(4) . ' keepalive 4;',                    ''],
    ['one more',                   servers(5) . ' keepalive 4;',                    too_small(4, 5)],
    ['many more',                  servers(40) . ' keepalive 1;',                   too_small(1, 40)],
    ['local',                      servers(2) . ' keepalive 1 local;',              too_small(1, 2)],
    ['before the servers',         'keepalive 1; ' . servers(2),                    too_small(1, 2)],
    ['with a balancer',            'least_conn; ' . servers(2) . ' keepalive 1;',   too_small(1, 2)],
    ['with a zone',                'zone u 64k; ' . servers(2) . ' keepalive 1;',   too_small(1, 2)],
    ['per_server',                 servers(5) . ' keepalive 1 per_server;',         ''],
    ['local per_server',           servers(5) . ' keepalive 1 local per_server;',   ''],
    ['no pool',                    servers(5) . ' keepalive 0;',                    ''],
    ['backups',                    servers(2) . ' server 127.0.0.2:1 backup; server 127.0.0.2:2 backup; keepalive 2;', ''],
    ['backups, and others',        servers(3) . ' server 127.0.0.2:1 backup; keepalive 2;', too_small(2, 3)],
    ['one address twice',          'server 127.0.0.1:1; server 127.0.0.1:1; keepalive 1;', ''],
    ['a server that is down',      'server 127.0.0.1:1; server 127.0.0.1:2 down; keepalive 1;', ''],
    ['no keepalive, few servers',  servers(5),                                      ''],
    ['no keepalive, many servers', servers(40),                                     default_is_on() ? too_small(32, 40) : ''],
) {
    my ($title, $upstream, $says) = @$case;
    my ($accepted, $said) = $tested->verdict("upstream u {\n$upstream\n}\n");
    is $accepted ? $said : "refused: $said", $says, "a small pool: $title";
}

# In an included file, with its own lines, and each upstream by itself.
{
    my $file = work_dir() . '/upstreams.conf';
    open my $out, '>', $file or die "$file: $!";
    print $out "# one\nupstream u1 {\n", servers(2), "\nkeepalive 1;\n}\n\nupstream u2 { ", servers(3), " keepalive 2; }\n";
    close $out or die "$file: $!";
    $tested->configure(http => "include $file;");
    my ($accepted, $output) = $tested->test;
    ok $accepted, 'an included file is accepted';
    my @found = $output =~ /\[warn\] keepalive is on for upstream "(u\d)".* in (\S+:\d+)$/mg;
    is "@found", "u1 $file:2 u2 $file:7", 'each upstream is named with its file and line' or diag $output;
}

done_testing;
