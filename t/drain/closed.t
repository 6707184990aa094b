# `keepalive_drain`: each reason to close a connection instead of reading the rest of an answer. The next request gets its own
# answer over another connection, and nothing is left behind.
#
# faults: F1.5 "The connection ends in the middle of the body, or right after it."
# faults: F2.5 "The connection ends in the middle of the body, or right after it."
# faults: F6.1 "Bytes after the body, together with it or later."
# faults: F7.1 "version=1.0&len=10&stay=1"
# faults: F7.4 "interim=$interim&len=10"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($server, $spare) = map { 'server ' . $backend->address($_) } 0, 1;
my $nginx = Keepalive::Unread->new($backend, {
    default => "$server max_fails=0; keepalive 4;",
    small   => "$server max_fails=0; keepalive 4; keepalive_drain 100;",
    quick   => "$server max_fails=0; keepalive 4; keepalive_drain 1m timeout=200ms;",
    two     => "$server max_fails=0; $spare backup; keepalive 4;",
}, locations => <<'END');
location /default/closing {
    auth_request /default/closing/ask;
    proxy_pass http://pages;
}
location /default/closing/ask { proxy_pass http://default/?$http_x_script; proxy_set_header Connection close; }
location /default/old {
    auth_request /default/old/ask;
    proxy_pass http://pages;
}
location /default/old/ask { proxy_pass http://default/?$http_x_script; proxy_http_version 1.0; }
location /default/upgrade {
    auth_request /default/upgrade/ask;
    proxy_pass http://pages;
}
location /default/upgrade/ask {
    proxy_pass http://default/?$http_x_script;
    proxy_set_header Connection upgrade;
    proxy_set_header Upgrade echo;
}
location /read { proxy_pass http://default; }
location /read/unbuffered { proxy_pass http://default; proxy_buffering off; }
END
my $process = $nginx->{nginx};
$nginx->who($_) for qw(default small quick two);
$nginx->status('two', 'next', 'status=404&only=0');
my $descriptors = $process->descriptors;

# What the error log has got since this was asked last.
my $log_read = 0;
sub new_log { my $new = substr $process->error_log, $log_read; $log_read += length $new; return $new }

# A case whose end is logged at level info.
sub closed_for {
    my ($reason, $name, $way, $script, $status, @more) = @_;
    new_log();
    $nginx->closed($name, $way, $script, $status, @more);
    my @lines = grep { /is not kept/ } split /\n/, new_log();
    is grep({ /\[info\].*upstream "$name" is not kept: .*$reason/ } @lines), 1, 'one line in the log says why'
        or diag "$name, $way, $script: @lines";
    is @lines, 1, 'and no other' if @lines != 1;
}

# Too large: with Content-Length that is known at once, without reading.
closed_for(qr/larger than "keepalive_drain"/, 'default', 'auth', $_, 200)
    for 'len=65537', 'len=16000000', 'framing=chunked&len=16000000', 'framing=chunked&len=70000&drip=2',
        'len=16000000&drip=1000', 'framing=chunked&len=100000&fault=endless', chunked("10001\r\n"),
        chunked("7fffffffffffffff\r\n"), chunked("ffffffffffffffff\r\n"), chunked("1\r\nx\r\nffffffffffffffff\r\n"),
        'len=65537&header=Connection:keep-alive';
for my $way (qw(mirror accel intercept)) {
    closed_for(qr/larger than "keepalive_drain"/, 'default', $way, "$_&status=404", 200)
        for 'len=65537', 'framing=chunked&len=70000';
}

# Too slow, whether it makes progress or not: the timeout is for the whole rest.
for my $script ('len=1000&fault=hang&at=body', 'framing=chunked&len=1000&fault=hang&at=body', 'len=1000&drip=150',
    'framing=trailers&len=1000&drip=150', chunked("5\r\nhello\r\n0\r\n"), chunked(''), 'len=50000&drip=2&pieces=1000') {
    my $begun = time;
    closed_for(qr/not complete in time/, 'quick', 'auth', $script, 200, "slow: $script", 0.6);
    cmp_ok time - $begun, '>', 0.15, "slow: but not before its time: $script";
}

# What is no chunk.
closed_for(qr/chunked response is invalid/, 'default', 'auth', chunked($_), 200, 'malformed: ' . s/\r/\\r/gr =~ s/\n/\\n/gr)
    for "x\r\nOK\r\n0\r\n\r\n", "\r\n", "\n", " 2\r\nOK\r\n", "-1\r\n\r\n", "+1\r\nx\r\n", "0x1\r\nx\r\n", ";a\r\n", "2\nOK\n0\n\n",
        "2\nOK\r\n0\r\n\r\n", "2\r\nOK\n0\r\n\r\n", "2\r\nOK0\r\n\r\n", "2\r\nOKxx0\r\n\r\n", "2\r\nO\r\n0\r\n\r\n", "2 2\r\nOK\r\n",
        "10000000000000000\r\n", "ffffffffffffffffff\r\n", "2\r\r\nOK\r\n", "0\n\n", "0\r\n\n", "0\r\nno field\r\n\r\n",
        "0\r\n: x\r\n\r\n", "0\r\n a: b\r\n\r\n", "0\r\na: b\n\r\n", "\0\r\n", 'a' x 400, '1;' . 'a' x 400, "0\r\na:" . 'b' x 400;
closed_for(qr/chunked response is invalid/, 'default', 'auth', chunked("2\r\nOK\r\nx\r\n") . '&drip=3', 200, 'malformed, after some of it');
closed_for(qr/larger than "keepalive_drain"/, 'small', 'auth', chunked("1;aaaaaaaa\r\nx\r\n" x 60), 200, 'more framing than body');
closed_for(qr/larger than|invalid/, 'default', $_, 'framing=chunked&len=100&fault=endless&at=body', 200, "$_: chunks without end")
    for qw(auth mirror);

# Framed by the end of the connection, HTTP/1.0, or closed by its own header: there is no reason to wait for the rest.
$nginx->closed('default', 'auth', $_, 200) for 'framing=eof&len=10&stay=1', 'framing=eof&len=10&fault=hang&at=body',
    'version=1.0&len=10&stay=1', 'version=1.0&header=Connection:keep-alive&len=10&stay=1',
    'len=10&header=Connection:close&stay=1', 'len=10&header=Connection:Close&stay=1', 'framing=chunked&len=10&header=Connection:close&stay=1';
$nginx->closed('default', $_, 'len=10&stay=1', 200) for qw(closing old);

# Interim answers: nginx reads over a 103 from 1.29.0 on, and takes other ones for the whole answer.
for my $interim (100, 102, 103, '103,103') {
    my $fate = $interim =~ /^103/ && version_at_least('1.29.0') ? 'kept' : 'closed';
    $nginx->$fate('default', 'auth', "interim=$interim&len=10", $fate eq 'kept' ? 200 : 500);
    $nginx->$fate('default', 'mirror', "interim=$interim&len=10", 200);
}
# One that announces that nothing follows, though the answer does.
for my $interim ('100 Continue', '102 Processing') {
    my $raw = "HTTP/1.1 $interim\r\nContent-Length: 0\r\n\r\n";
    $raw .= "HTTP/1.1 200 OK\r\nContent-Length: 0" . ' ' x (length($raw) - 38) . "\r\n\r\n";
    $raw =~ s/([^\w.:-])/sprintf '%%%02X', ord $1/ge;
    $nginx->closed('default', 'auth', "raw=$raw&drip=400&pieces=2", 500, "$interim, without a body: at once", 0.7);
}
$nginx->closed('default', 'upgrade', 'upgrade=1', 500, 'upgraded');

# Bytes after the body, together with it or later.
closed_for(qr/something follows/, 'default', 'auth', $_, 200)
    for 'len=10&fault=extra', 'framing=chunked&len=10&fault=extra', 'framing=trailers&len=10&fault=extra', 'len=10&drip=1&fault=extra&pieces=1';
$nginx->closed('default', 'mirror', "$_&fault=extra", 200) for 'status=204', 'status=304', 'len=0';
$nginx->closed('default', 'auth', "$_&fault=extra&after=20", 200)
    for 'len=10', 'len=0', 'framing=chunked&len=10', 'status=204', 'len=1000&drip=1';

# The connection ends in the middle of the body, or right after it.
for my $fault (qw(close reset)) {
    closed_for(qr/server has closed/, 'default', 'auth', "$_&fault=$fault&at=body&after=30", 200)
        for 'len=1000', 'framing=chunked&len=1000', 'framing=trailers&len=1000';
    $nginx->closed('default', 'auth', "$_&fault=$fault", 200) for 'len=1000', 'framing=chunked&len=1000', 'len=1000&drip=1';
}

# A client that goes before the header has come takes the connection along: the server is to stop.
for my $way (qw(auth accel)) {
    my ($number) = $nginx->who('default');
    my $requests = $backend->stats->{requests};
    my $client = $nginx->begin('default', $way, 'fault=hang&at=start&len=10');
    ok wait_for { $backend->stats->{requests} > $requests }, "client gone before the header, $way: it is waited for";
    my ($begun, $open) = (time, $backend->stats->{open});
    $client->abort;
    ok wait_for { $backend->stats->{open} < $open }, "client gone before the header, $way: the connection is closed";
    cmp_ok time - $begun, '<', 0.9, "client gone before the header, $way: at once";
    cmp_ok +($nginx->who('default'))[0], '>', $number, "client gone before the header, $way: the next request has its own";
}

# A client that goes in the middle of a body that is passed on, though its rest is short enough.
for my $path ('/read', '/read/unbuffered') {
    my ($number) = $nginx->who('default');
    my $open = $nginx->open_now;
    my $client = begin($nginx->{port}, "$path?len=20000&drip=60");
    like $client->receive, qr/^HTTP\/1.1 200 /, "client gone in the middle, $path: the answer has begun";
    $client->abort;
    ok wait_for { $nginx->open_now < $open }, "client gone in the middle, $path: the connection is closed";
    my ($next, $request) = $nginx->who('default');
    ok $next > $number && $request == 1, "client gone in the middle, $path: the next request has its own";
}

# An answer that is a failure.
$nginx->closed('two', 'next', "body=broken&status=$_&only=0", 200) for 500, 503;

# After all that, nothing is left but idle connections of the last answers.
$nginx->settle;
ok wait_for { $process->descriptors <= $descriptors }, 'no descriptor is left' or diag $process->descriptors . " instead of $descriptors";
is $process->descriptors, $descriptors, 'nor a place in a pool lost';
unlike $process->error_log, qr/\[(?:alert|crit|emerg)\]/, 'nothing worse than an error is in the log';
$nginx->stop;
done_testing;
