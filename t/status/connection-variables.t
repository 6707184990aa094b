# $upstream_connection_reused, $upstream_connection_requests, $upstream_keepalive_status and $upstream_queue_time: their values
# for each attempt, in access logs and elsewhere, however a request reaches its upstreams.
#
# about: status

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Auth ();
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Http2;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my ($port, $closed, $h2_port) = map { free_port() } 1 .. 3;
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($first, $second) = map { $backend->address($_) } 0, 1;
my %other = map { $_ => Keepalive::Backend->start(protocol => $_) } qw(fastcgi memcached uwsgi);
my $grpc = has_feature('with-http_v2_module') && Keepalive::Http2->start('');
my $h2 = Keepalive::Auth::http2_listen($h2_port);
my $auth = has_feature('with-http_auth_request_module');
my $pages = work_dir() . '/pages';
mkdir $pages or die "$pages: $!";
for (['included', '<!--#include virtual="/pool" -->,<!--#include virtual="/none" -->,<!--#include virtual="/implicit" -->'], ['file', 'file']) {
    open my $out, '>', "$pages/$_->[0]" or die "$pages: $!";
    print $out $_->[1];
    close $out or die "$pages: $!";
}

# /name is passed to upstream `name`, with the query as it is.
my %upstreams = (
    pool     => "server $first; keepalive 8;",
    other    => "server $second; keepalive 8;",
    none     => "server $first; keepalive 0;",
    both     => "server $first; server $second backup; keepalive 8;",
    refused  => "server 127.0.0.1:$closed max_fails=0; server $second backup; keepalive 8;",
    dead     => "server 127.0.0.1:$closed max_fails=0; keepalive 8;",
    down     => "server $first down; keepalive 8;",
    stale    => "server $first; keepalive 8; keepalive_check off;",
    stale_off => "server $first; server $second backup; keepalive 8; keepalive_check off; keepalive_stale_retry off;",
    queue    => "server $first max_conns=1 max_fails=0; keepalive 1; queue 1 timeout=20s;",
    short    => "server $first max_conns=1 max_fails=0; keepalive 1; queue 1 timeout=100ms;",
);
my $blocks = join '', map { "upstream $_ { $upstreams{$_} }\n" } sort keys %upstreams;
my $passes = join '', map { "location /$_ { proxy_pass http://$_; }\n" } sort keys %upstreams;

my $variables = '$upstream_keepalive_status|$upstream_connection_reused|$upstream_connection_requests|$upstream_queue_time';
my $log = work_dir() . '/requests.log';
my $params = sub { my ($name) = @_; "${name}_param REQUEST_METHOD \$request_method; ${name}_param REQUEST_URI \$request_uri;"
    . " ${name}_param CONTENT_LENGTH \$content_length; ${name}_param QUERY_STRING \$query_string;" };
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_cache_path @{[ work_dir() ]}/cache keys_zone=cache:1m;
log_format told '\$http_x_id \$uri $variables';
log_format again '\$http_x_id \$uri $variables $variables \$is_hit \$is_known';
map \$upstream_keepalive_status \$is_hit { HIT hit; default other; }
map \$upstream_connection_requests \$is_known { volatile; "" unknown; default known; }
$blocks
upstream fast { server @{[ $other{fastcgi}->address ]}; keepalive 4; }
upstream cache { server @{[ $other{memcached}->address ]}; keepalive 4; }
upstream wsgi { server @{[ $other{uwsgi}->address ]}; keepalive 4; }
@{[ $grpc ? "upstream grpc { server 127.0.0.1:$grpc->{port}; keepalive 4; }" : '' ]}
server {
    listen 127.0.0.1:$port;
    @{[ $h2 || '' ]}
    access_log $log told;
    log_subrequest on;
    $passes
    location = /settled { access_log off; return 200 settled; }
    location /nothing { return 200 nothing; }
    location /file { alias $pages/file; }
    location /implicit { proxy_pass http://$first; }
    location /implicit_dead { proxy_pass http://127.0.0.1:$closed; }
    location /by_variable { set \$name pool; proxy_pass http://\$name; }
    location /next { proxy_next_upstream error http_404; proxy_pass http://both; }

    # Redirects.
    location /rewritten { rewrite ^ /pool last; }
    location /tried { try_files /nothing/there /pool?\$args; }
    location /after_error { error_page 418 = /pool?\$args; return 418; }
    location /intercepted { proxy_intercept_errors on; error_page 404 = \@other; proxy_pass http://pool; }
    location /intercepted_implicit { proxy_intercept_errors on; error_page 404 = \@other; proxy_pass http://$first; }
    location \@other { proxy_pass http://other; }
    location /failed { error_page 502 = /other; proxy_pass http://dead; }
    location /posted { post_action /action; proxy_pass http://pool; }
    location /posted_implicit { post_action /action; proxy_pass http://$first; }
    location /action { proxy_pass http://other/; }

    # Subrequests.
    location /included { alias $pages/included; ssi on; ssi_types *; }
    location /mirrored { mirror /other; proxy_pass http://pool; }
    location /mirrored_none { mirror /none; proxy_pass http://pool; }
    @{[ $auth ? 'location /asks { auth_request /other; proxy_pass http://pool; }' : '' ]}
    location /asks_ours { auth_subrequest /other; proxy_pass http://pool; }

    # Elsewhere than in logs.
    location /headers {
        set \$early "\$upstream_keepalive_status-\$upstream_connection_requests";
        if (\$upstream_keepalive_status) { return 500; }
        if (\$upstream_connection_reused = 1) { return 500; }
        access_log $log again;
        add_header X-Told "$variables" always;
        add_header X-Early "[\$early]";
        add_header X-Late "[\$upstream_keepalive_status]";
        proxy_pass http://pool;
    }
    location /headers_nothing {
        access_log $log again;
        add_header X-Told "[$variables]";
        add_header X-None \$upstream_keepalive_status;
        return 200;
    }

    location /cached {
        proxy_cache cache;
        proxy_cache_key \$uri\$arg_key;
        proxy_cache_valid 200 1s;
        proxy_cache_use_stale error http_500 updating;
        add_header X-Cache \$upstream_cache_status;
        proxy_pass http://pool;
    }
    location /updating {
        proxy_cache cache;
        proxy_cache_key \$uri\$arg_key;
        proxy_cache_valid 200 1s;
        proxy_cache_use_stale error updating;
        proxy_cache_background_update on;
        add_header X-Cache \$upstream_cache_status;
        proxy_pass http://pool;
    }

    # Protocols.
    location /upgraded { proxy_set_header Connection upgrade; proxy_set_header Upgrade echo; proxy_pass http://pool; }
    location /fast { fastcgi_keep_conn on; fastcgi_pass fast; @{[ $params->('fastcgi') ]} }
    location /fast_close { fastcgi_keep_conn off; fastcgi_pass fast; @{[ $params->('fastcgi') ]} }
    location /memcached { set \$memcached_key \$request_uri; memcached_pass cache; }
    location /wsgi { uwsgi_pass wsgi; @{[ $params->('uwsgi') ]} }
    @{[ $grpc ? 'location /grpc { grpc_pass grpc://grpc; }' : '' ]}
    @{[ $grpc && version_at_least('1.29.4') ? 'location /h2 { proxy_http_version 2; proxy_pass http://grpc; }' : '' ]}
}
END

my $id = 0;

# A request that can be identified, whatever it is redirected to.
sub ask {
    my ($path, %options) = @_;
    $id++;
    return begin($port, $path, %options, headers => { 'X-Id' => $id, %{ $options{headers} || {} } });
}

# What is logged of the last one, or that with this name, and of its parts, in alphabetical order; with a path, of the part
# that has it.
sub all_logged {
    my ($number, $uri, $wanted) = @_;
    $wanted //= $id;
    my @lines;
    wait_for {
        open my $in, '<', $log or return;
        @lines = grep { /^$wanted / && /\n\z/ && (!defined $uri || index($_, "$wanted $uri ") == 0) } <$in>;
        @lines >= $number;
    };
    chomp @lines;
    s/^\d+ \S+ // for @lines;
    return sort { $a cmp $b } @lines;
}

sub logged { return join "\n", all_logged(1, @_) }

sub told {
    ask(@_)->finish;
    return logged();
}

# What is expected of an attempt: status, reused, requests, queue time. Each upstream has one connection, of which the
# requests are counted.
my %carried;
my $miss = 'MISS|0|1|0.000';
my $bypass = 'BYPASS|0|1|0.000';
my $nothing = '-|-|-|-';

sub next_of {
    my ($upstream) = @_;
    my $number = ++$carried{$upstream};
    return $number == 1 ? $miss : "HIT|1|$number|0.000";
}

# Several attempts: list($first, ', ', $second, ' : ', $third).
sub list {
    my ($first, @more) = @_;
    my @fields = split /\|/, $first;
    while (my ($separator, $next) = splice @more, 0, 2) {
        my @next = split /\|/, $next;
        $fields[$_] .= $separator . $next[$_] for 0 .. 3;
    }
    return join '|', @fields;
}

# All pools are empty.
sub empty {
    afresh($port, $backend, values %other);
    %carried = ();
}

# The same, but without the time that a request has waited, if it is up to a second longer than expected.
sub without_time {
    my ($told, $from) = @_;
    $told =~ s/\b(\d+\.\d{3})\z/$1 > $from && $1 < $from + 1 ? 'waited' : $1/e;
    return $told;
}

# One request after the other.
is told('/pool'), next_of('pool'), 'the first request of a connection';
is told('/pool'), 'HIT|1|2|0.000', 'the second';
$carried{pool} = 2;
is told('/pool', method => 'POST', body => 'x'), next_of('pool'), 'a POST';
is told('/pool', method => 'HEAD'), next_of('pool'), 'HEAD';
is told("/pool?status=$_"), next_of('pool'), "an answer of $_" for 204, 304, 404, 500;
is told('/pool?framing=chunked'), next_of('pool'), 'an answer in chunks';
is told('/by_variable'), next_of('pool'), 'an upstream that a variable names';
is told('/pool?header=Connection:close'), next_of('pool'), 'the server closes the connection';
is told('/pool'), $miss, 'and there is another one';
is told('/none'), $bypass, 'keepalive 0' for 1, 2;
is told('/nothing'), $nothing, 'no upstream';
is told('/file'), $nothing, 'a file';
# Of a connection without an upstream {} only its status is known.
my $unknown = 'BYPASS|-|-|0.000';
is told($_), $unknown, "no upstream {}: $_" for '/implicit', '/implicit', '/implicit_dead';

# Several servers.
empty();
is told('/refused'), list($miss, ', ', next_of('refused')), 'a server refuses, another one answers' for 1 .. 3;
is told('/dead'), $miss, 'a server refuses, and there is no other';
is told('/none?fault=close&at=start'), $bypass, 'keepalive 0, and the request fails';
is told('/down'), '-|-|-|0.000', 'all servers are down';
is told('/next?status=404&only=0'), list($miss, ', ', $miss), 'http_404, and another server';
is told('/both'), 'HIT|1|2|0.000', 'the connection of the answer that was not wanted';
is told('/next?status=404'), list('HIT|1|3|0.000', ', ', 'HIT|1|2|0.000'), 'http_404, both from the pool';

# Stale connections.
for my $method (qw(GET POST)) {
    my @options = $method eq 'POST' ? (method => 'POST', body => 'x') : ();
    empty();
    told('/stale_off');
    my $stale = 'STALE|1|2|0.000';
    is told('/stale_off?fault=close&at=start&from=2&only=0', @options), $method eq 'GET' ? list($stale, ', ', $miss) : $stale,
        "stale, keepalive_stale_retry off, $method";
    told('/stale');
    my $expected = $method eq 'GET' ? list($stale, ', ', $miss) : $stale;
    is told('/stale?fault=close&at=start&from=2', @options), $expected, "stale when the request has arrived, $method";
}
{
    # The request and the end of its connection come while the worker is stopped. It reads the request first.
    empty();
    told('/stale');
    my $client = begin($port, '/settled', keep_alive => 1);
    $client->receive;
    my ($worker) = $nginx->workers;
    kill STOP => $worker;
    my $request = ask('/stale', method => 'POST', body => 'x', over => $client->{socket});
    $backend->drop;
    wait_for { !$backend->stats->{open} };
    kill CONT => $worker;
    is $request->finish->{status}, 200, 'stale, POST: is answered';
    is logged(), list('STALE|1|2|0.000', ', ', $miss), 'stale, POST: by a new connection';
    is told('/stale'), 'HIT|1|2|0.000', 'which is used again';
    # Here it looks, and does not use it at all.
    told('/pool');
    kill STOP => $worker;
    $client = begin($port, '/settled');
    $backend->drop;
    wait_for { !$backend->stats->{open} };
    kill CONT => $worker;
    $client->finish;
    is told('/pool'), $miss, 'one that was closed while it was idle is not used';
}

# Redirects to other upstreams; the groups are separated by colons.
sub to { return '?header=X-Accel-Redirect:' . join '%3Fheader%3DX-Accel-Redirect:', @_ }

empty();
is told('/pool' . to('/other')), list(next_of('pool'), ' : ', next_of('other')), 'X-Accel-Redirect' for 1, 2;
is told('/pool' . to('/pool')), list(next_of('pool'), ' : ', next_of('pool')), 'X-Accel-Redirect to the same upstream';
is told('/pool' . to('/none')), list(next_of('pool'), ' : ', $bypass), 'X-Accel-Redirect to one without a pool';
is told('/none' . to('/pool')), list($bypass, ' : ', next_of('pool')), 'X-Accel-Redirect from one without a pool';
is told('/pool' . to('/nothing')), next_of('pool'), 'X-Accel-Redirect to no upstream';
is told('/refused' . to('/refused')), list($miss, ', ', next_of('refused'), ' : ', $miss, ', ', next_of('refused')),
    'X-Accel-Redirect, two servers each';
is told('/pool' . to('/other', '/none')), list(next_of('pool'), ' : ', next_of('other'), ' : ', $bypass), 'X-Accel-Redirect, three groups';
is told('/pool' . to('/dead')), list(next_of('pool'), ' : ', $miss), 'X-Accel-Redirect to a server that refuses';
is told('/pool' . to('/down')), list(next_of('pool'), ' : ', '-|-|-|0.000'), 'X-Accel-Redirect to one that is down';
is told($_), next_of('pool'), "$_: before any upstream" for '/rewritten', '/tried', '/after_error';
is told('/intercepted?status=404'), list(next_of('pool'), ' : ', next_of('other')), 'error_page of an answer';
is told('/intercepted'), next_of('pool'), 'error_page that is not used';
is told('/failed'), list($miss, ' : ', next_of('other')), 'error_page after a failure';
# One of the groups has no upstream {}.
for (['/pool' . to('/implicit'), 'pool', 0 ], ['/implicit' . to('/pool'), 'pool', 1], ['/intercepted_implicit?status=404', 'other', 1],
    ['/none' . to('/implicit'), undef, 0], ['/implicit' . to('/none'), undef, 1]) {
    my ($path, $pool, $implicit_first) = @$_;
    my $known = $pool ? next_of($pool) : $bypass;
    is told($path), list($implicit_first ? ($unknown, ' : ', $known) : ($known, ' : ', $unknown)), "a group without upstream {}: $path";
}
# What comes after the response. (nginx does not document post_action.)
is told('/posted_implicit'), list($unknown, ' : ', next_of('other')), 'post_action, no upstream {} before';
is told('/posted'), list(next_of('pool'), ' : ', next_of('other')), 'post_action';

# Subrequests have values of their own.
empty();
for my $round (1, 2) {
    is told_of('/included', 4), lines($nothing, next_of('pool'), $bypass, $unknown), 'SSI: the page and its parts';
    is told_of('/mirrored', 2), lines(next_of('pool'), next_of('other')), 'mirror: the request and its copy';
    is told_of('/mirrored_none', 2), lines(next_of('pool'), $bypass), 'mirror to an upstream without a pool';
    for my $location ($auth ? '/asks' : (), '/asks_ours') {
        is told_of($location, 2), lines(next_of('pool'), next_of('other')), "$location: the request and its authorisation";
        is logged($location), "HIT|1|$carried{pool}|0.000", "$location: which is which";
    }
}

sub lines { return join "\n", sort { $a cmp $b } @_ }

sub told_of {
    my ($path, $number) = @_;
    ask($path)->finish;
    return join "\n", all_logged($number);
}

# The queue.
sub hold {
    my ($path) = @_;
    my $before = $backend->stats->{requests};
    my $request = begin($port, $path);
    wait_for { $backend->stats->{requests} > $before } or die 'the server is not held';
    return $request;
}

empty();
is told('/queue'), $miss, 'queue: nobody waits';
{
    my $held = hold('/queue?delay=300');
    is without_time(told('/queue'), 0.1), 'QUEUED|1|3|waited', 'queue: waited, and got the connection of the other one';
    $held->finish;
    $held = hold('/queue?fault=hang&at=start');
    my $waits = ask('/queue');
    my $waiting = $id;
    settle($port);
    is told('/queue'), '-|-|-|0.000', 'queue: no place';
    $held->abort;
    is $waits->finish->{status}, 200, 'queue: the other one is served';
    is without_time(lines(all_logged(1, undef, $waiting)), 0), 'QUEUED|0|1|waited', 'queue: waited, and got a new connection';

    $held = hold('/short?fault=hang&at=start');
    is without_time(told('/short'), 0.09), 'QUEUED|-|-|waited', 'queue: waited in vain';
    $held->abort;

    $held = hold('/queue?fault=hang&at=start');
    $waits = ask('/queue');
    settle($port);
    sleep 0.05;
    $waits->abort;
    is without_time(logged(), 0.04), 'QUEUED|-|-|waited', 'queue: the client leaves';
    $held->abort;

    $held = hold('/queue?delay=300');
    $waits = ask('/queue' . to('/pool'));
    is $waits->finish->{status}, 200, 'queue, then X-Accel-Redirect';
    like logged(), qr/^QUEUED : (?:MISS|HIT)\|1 : [01]\|\d+ : \d+\|0\.[0-9]{3} : 0\.000$/, 'queue, then X-Accel-Redirect: both are told';
    $held->finish;
    $held = hold('/queue?delay=300');
    ask('/pool' . to('/queue'))->finish;
    like logged(), qr/^HIT : QUEUED\|1 : 1\|\d+ : \d+\|0\.000 : 0\.[0-9]{3}$/, 'X-Accel-Redirect, then queue: both are told';
    $held->finish;
}

# A client that leaves.
{
    empty();
    my $request = ask('/pool?fault=hang&at=start');
    wait_for { $backend->stats->{requests} };
    $request->abort;
    is logged(), $miss, 'the client leaves before the answer';
    $request = ask('/none?fault=hang&at=body&len=100000');
    $request->receive;
    $request->abort;
    is logged(), $bypass, 'the client leaves in the middle of the answer';
}

# In headers, in the rewrite phase, in a map, and twice.
empty();
for my $told ($miss, 'HIT|1|2|0.000') {
    my $answer = ask('/headers')->finish;
    my ($status) = $told =~ /^(\w+)/;
    is $answer->{headers}{'x-told'}, $told, "$status, in a header";
    is $answer->{headers}{'x-late'}, "[$status]", "$status, in another header";
    is $answer->{headers}{'x-early'}, '[-]', "$status: nothing is known in the rewrite phase";
    is logged(), "$told $told " . ($status eq 'HIT' ? 'hit' : 'other') . ' known', "$status, in the log, twice, and in maps";
}
{
    my $answer = ask('/headers?fault=close&at=start')->finish;
    is "$answer->{status} $answer->{headers}{'x-told'}", '502 ' . list('STALE|1|3|0.000', ', ', $miss), 'in the header of an error';
    $answer = ask('/headers_nothing')->finish;
    is $answer->{headers}{'x-told'}, '[|||]', 'in a header, no upstream';
    is $answer->{headers}{'x-none'}, undef, 'an empty header';
    is logged(), "$nothing $nothing other unknown", 'in the log, twice, and in maps, no upstream';
}

# Responses from the cache.
empty();
is told("/$_?key=1"), next_of('pool'), "/$_: not there" for qw(cached updating);
is told("/$_?key=1"), $nothing, "/$_: there" for qw(cached updating);
# They are good for a second.
sleep 2.1;
is told('/cached?key=1'), next_of('pool'), '/cached: expired';
is told_of('/updating?key=1', 2), lines($nothing, next_of('pool')), '/updating: from the cache, and meanwhile in the background';
is told('/updating?key=1'), $nothing, '/updating: there again';
sleep 2.1;
is told('/cached?key=1&status=500'), next_of('pool'), '/cached: expired, and used instead of an error';

# Protocols.
empty();
{
    my $request = ask('/upgraded?upgrade=1', keep_alive => 1, headers => { Upgrade => 'echo', Connection => 'upgrade' });
    like $request->receive, qr/^HTTP\/1.1 101 /, '101: switched';
    $request->abort;
    is logged(), $miss, '101: told at its end';
}
is told('/fast'), $_, "FastCGI: $_" for $miss, 'HIT|1|2|0.000', 'HIT|1|3|0.000';
is told('/fast_close'), $_, "FastCGI, not kept: $_" for 'HIT|1|4|0.000', $miss;
is told('/memcached'), $_, "memcached: $_" for $miss, 'HIT|1|2|0.000';
is told('/wsgi'), $_, "uwsgi, which is never kept: $_" for $miss, $miss;
SKIP: {
    skip 'nginx has no HTTP/2', 1 unless $grpc;
    is told('/grpc'), $_, "gRPC: $_" for $miss, 'HIT|1|2|0.000', 'HIT|1|3|0.000';
    skip 'proxying by HTTP/2 needs 1.29.4', 1 unless version_at_least('1.29.4');
    is told('/h2'), $_, "proxied by HTTP/2: $_" for $miss, 'HIT|1|2|0.000';
}
SKIP: {
    skip 'nginx or curl has no HTTP/2', 1 unless $h2;
    for my $expected ($miss, 'HIT|1|2|0.000') {
        $id++;
        my $answer = Keepalive::Auth::curl($h2_port, '/headers', '-H', "X-Id: $id");
        is $answer->{headers}{'x-told'}, $expected, "a client that speaks HTTP/2, in a header: $expected";
        like logged(), qr/^\Q$expected $expected \E/, 'and in the log';
    }
}

$nginx->stop;
done_testing;
