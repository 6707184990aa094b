# Times of the queue: $upstream_queue_time beside the other times, and the timeouts that must not include the wait.
#
# faults: F13.5 "a wait longer than proxy_connect_timeout"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Deaf;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;

needs_module();

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $unix = Keepalive::Backend->start(listen => ['unix:' . work_dir() . '/backend.sock']);
my ($port, $closed) = map { free_port() } 1 .. 2;
my ($one, $two) = map { 'server ' . $backend->address($_) . ' max_conns=1 max_fails=0' } 0, 1;

my $deaf = Keepalive::Deaf->start;
my $deaf_server = 'server ' . $deaf->address . ' max_conns=1 max_fails=0';

# Checks fields of a log line, times in seconds: 0 means less than 0.19; other numbers may be 0.08 less, since a request
# begins after the one that it waits for, or a second more on a busy machine. A list is compared piece by piece, and a
# text, 0.000 among them, literally.
sub shows {
    my ($line, $title, %expected) = @_;
    for my $field (sort keys %expected) {
        my @separated = split /( : |, )/, $line->{$field} // '(no line)';
        my @wanted = split /( : |, )/, $expected{$field};
        my $fits = @separated == @wanted && !grep { !fits($separated[$_], $wanted[$_]) } 0 .. $#wanted;
        ok $fits, "$title: $field is $expected{$field}" or diag "but it is $line->{$field}";
    }
}

sub fits {
    my ($is, $wanted) = @_;
    return $is eq $wanted if $wanted !~ /^[\d.]+$/ || $wanted =~ /^\d\.\d{3}$|^\d{3}$/;
    return $is =~ /^\d+\.\d{3}$/ && $is >= $wanted - 0.08 && $is <= $wanted + ($wanted == 0 ? 0.19 : 1);
}

sub log_line {
    my ($nginx, $uri) = @_;
    my @lines;
    wait_for { @lines = log_of($nginx, $uri) } or return {};
    is @lines, 1, "$uri is logged once";
    return $lines[0];
}

my $serial = 0;

# Holds a server for some milliseconds, and sends a request in the meantime; returns the log line of the latter.
sub behind {
    my ($nginx, $milliseconds, $uri, %options) = @_;
    $uri .= ($uri =~ /\?/ ? '&' : '?') . 'line=' . ++$serial;
    my $before = $backend->stats->{requests};
    my ($name) = $uri =~ m{^(?:/via)?/([a-z_]+)};
    my $held = begin($port, "/$name/hold?delay=$milliseconds");
    wait_for { $backend->stats->{requests} > $before };
    my $request = begin($port, $uri, %options);
    if (my $seconds = $options{leave}) {
        sleep $seconds;
        $request->abort;
    }
    $request->finish;
    $held->finish;
    return log_line($nginx, $uri);
}

for my $zone ('', 'zone %s 64k;') {
    my $title = $zone ? 'zone' : 'no zone';
    my %upstreams = (
        pool     => "$one; keepalive 1; queue 10;",
        no_pool  => "$one; queue 10;",
        short    => "$one; keepalive 1; queue 10 timeout=200ms;",
        short_d  => "$one; keepalive 1; queue 10 timeout=200ms status=504;",
        both     => "$one; $two; keepalive 2; queue 10;",
        refused  => "server 127.0.0.1:$closed max_fails=0; $one; keepalive 2; queue 10;",
        deaf     => "$deaf_server; queue 10;",
        unqueued => "$one; keepalive 1;",
        # Of one location only, so that no idle connection of another one has to make room.
        redirect => "$two; queue 10;",
        unix     => 'server ' . $unix->address . ' max_conns=1; keepalive 1; queue 10;',
    );
    my $nginx = queue_nginx($port, { map { $_ => $upstreams{$_} . ($zone && sprintf $zone, $_) } keys %upstreams },
        http => 'proxy_next_upstream error timeout http_502 http_503 http_504;', locations => <<'END')->start;
    location /quick/ { proxy_connect_timeout 100ms; rewrite ^/quick(.*) $1 break; proxy_pass http://pool; }
    location /patient/ { proxy_connect_timeout 30s; proxy_pass http://short; }
    location /no_time/ { proxy_connect_timeout 0; proxy_pass http://unix; }
    location /deaf/ { proxy_connect_timeout 500ms; proxy_pass http://deaf; }
    location /tries/ { proxy_next_upstream_timeout 250ms; proxy_pass http://both; }
    location /twice/ { proxy_pass http://both; }
    location /via/ { proxy_pass http://redirect; }
END

    # Without a wait.
    my $line = do { get($port, '/pool?line=first'); log_line($nginx, '/pool?line=first') };
    shows($line, "$title, no wait", status => 200, queue => '0.000', connect => 0, response => 0, request => 0);
    get($port, '/pool?line=second');
    shows(log_line($nginx, '/pool?line=second'), "$title, no wait, pooled", queue => '0.000', connect => '0.000');
    get($port, '/unqueued?line=unqueued');
    shows(log_line($nginx, '/unqueued?line=unqueued'), "$title, no queue", queue => '0.000', status => 200);

    # With a wait.
    for my $name (qw(pool no_pool)) {
        $line = behind($nginx, 400, "/$name/x");
        shows($line, "$title, $name, waited", status => 200, queue => 0.4, connect => 0, header => 0, response => 0,
            request => 0.4, addr => $backend->address);
        $line = behind($nginx, 300, "/$name/x?delay=300");
        shows($line, "$title, $name, waited for a slow answer", queue => 0.3, connect => 0, header => 0.3,
            response => 0.3, request => 0.6);
    }

    # The wait is not the connect timeout's, and the connect timeout is not the wait's.
    {
        my $before = $backend->stats->{requests};
        my $held = begin($port, '/pool/hold?delay=400');
        wait_for { $backend->stats->{requests} > $before };
        is get($port, "/quick/x?line=quick")->{status}, 200, "$title: a wait longer than proxy_connect_timeout";
        shows(log_line($nginx, '/quick/x?line=quick'), "$title, a short proxy_connect_timeout", queue => 0.4, connect => 0,
            upstream_status => '200');
        $held->finish;

        $before = $backend->stats->{requests};
        $held = begin($port, '/short/hold?fault=hang&at=start');
        wait_for { $backend->stats->{requests} > $before };
        is get($port, '/patient/x?line=patient')->{status}, 502, "$title: a wait shorter than proxy_connect_timeout";
        shows(log_line($nginx, '/patient/x?line=patient'), "$title, a long proxy_connect_timeout", queue => 0.2,
            upstream_status => '502', connect => '-', request => 0.2);
        $held->abort;
    }

    # A unix socket needs no time at all to connect, so one may well be given none.
    is statuses(map { begin($port, "/no_time/x?delay=30&n=$_") } 1 .. 5), '200 x 5', "$title: a proxy_connect_timeout of 0";

    # After the wait the connect timeout begins anew.
    {
        my @requests = map { begin($port, "/deaf/x?line=deaf$_") } 1, 2;
        is statuses(@requests), '504 x 2', "$title: nobody can connect";
        shows(log_line($nginx, '/deaf/x?line=deaf1'), "$title, the first", queue => '0.000', response => 0.5, request => 0.5,
            connect => '-');
        shows(log_line($nginx, '/deaf/x?line=deaf2'), "$title, the second", queue => 0.5, response => 0.5, request => 1,
            connect => '-');
    }

    # Timed out, or left: how long it was. There is no second try after a failure in the queue.
    for my $case ([short => 502], [short_d => 504]) {
        my ($name, $status) = @$case;
        $line = behind($nginx, 500, "/$name/x");
        shows($line, "$title, $name", status => $status, upstream_status => "$status", queue => 0.2, connect => '-',
            header => '-', response => 0, request => 0.2, addr => $name);
    }
    $line = behind($nginx, 500, '/pool/x', leave => 0.2);
    shows($line, "$title, left", status => 499, queue => 0.2, connect => '-', header => '-', response => 0, request => 0.2);

    # Lists: one entry for each server tried, and for each request that X-Accel-Redirect makes of one.
    $line = behind($nginx, 300, '/refused/x');
    shows($line, "$title, refused, then waited", status => 200, queue => '0.000, 0.3', upstream_status => '502, 200',
        connect => '-, 0', response => '0, 0');
    {
        my $before = $backend->stats->{requests};
        my $held = begin($port, '/pool/hold?delay=300');
        wait_for { $backend->stats->{requests} > $before };
        get($port, '/via/x?line=redirected&header=X-Accel-Redirect:/pool/there');
        shows(log_line($nginx, '/via/x?line=redirected'), "$title, redirected", queue => '0.000 : 0.3', connect => '0 : 0',
            response => '0 : 0', request => 0.3);
        $held->finish;
    }

    # proxy_next_upstream_timeout: the wait does not use it up, so there is a second try, with a wait of its own.
    {
        my @held = map { begin($port, "/both/hold?delay=400&n=$_") } 1, 2;
        settle($port);
        get($port, '/tries/x?status=503&line=tries');
        $line = log_line($nginx, '/tries/x?status=503&line=tries');
        like $line->{queue}, qr/^0\.[3-9]\d\d, 0\.\d{3}$/, "$title, a second try after a long wait: queue is 0.4, short";
        shows($line, "$title, a second try after a long wait", upstream_status => '503, 503', request => 0.4);
        $_->finish for @held;
    }

    # Both tries may wait.
    {
        my @held = map { begin($port, "/both/hold?delay=" . 300 * $_) } 1, 2;
        settle($port);
        get($port, '/twice/x?status=503&line=twice');
        shows(log_line($nginx, '/twice/x?status=503&line=twice'), "$title, two waits", queue => '0.3, 0.3',
            upstream_status => '503, 503', request => 0.6, connect => '0, 0');
        $_->finish for @held;
    }
    $nginx->stop;
}

done_testing;
