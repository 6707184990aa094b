# keepalive_check: an idle connection is checked when it is taken from the pool. The worker is stopped while a request and then
# the end of the idle connection arrive, so that nginx reads the request first.
#
# faults: F1.3 "closed: a new connection is used" "GET: a new connection is used"
# faults: F2.3 "reset: a new connection is used"
# faults: F2.6 "three had their first write refused" "keepalive_check off, reset, @$_: nginx itself sends it again"
# faults: F4.1 "two hundred, closed: one new connection is used" "after a restart of the server all requests are answered"
# faults: F6.2 "the foreign answer is not taken for one"
# faults: F6.5 "Keepalive::Backend::timed_out(300)"
# faults: F18.2 "TLS: the server has said goodbye meanwhile: a new connection is used"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $tls = has_feature('with-http_ssl_module');
my $backend = Keepalive::Backend->start;
my $unix = Keepalive::Backend->start(listen => ['unix:' . work_dir() . '/backend.sock']);
my $port = free_port();
my $nginx = Keepalive::Nginx->new(connections => 4096, http => <<"END")->start;
$proxy_keepalive
upstream on   { server @{[ $backend->address ]}; keepalive 1000; keepalive_stale_retry off; }
upstream off  { server @{[ $backend->address ]}; keepalive 1000; keepalive_stale_retry off; keepalive_check off; }
upstream safe { server @{[ $backend->address ]}; keepalive 1000; keepalive_check off; }
upstream unix { server @{[ $unix->address ]}; keepalive 4; keepalive_stale_retry off; }
upstream unix_off  { server @{[ $unix->address ]}; keepalive 4; keepalive_check off; keepalive_stale_retry off; }
upstream unix_safe { server @{[ $unix->address ]}; keepalive 4; keepalive_check off; }
server {
    listen 127.0.0.1:$port;
    location /on { proxy_pass http://on/; }
    location /off { proxy_pass http://off/; }
    location /safe { proxy_pass http://safe/; }
    location /unix { proxy_pass http://unix/; }
    location /unix_off { proxy_pass http://unix_off/; }
    location /unix_safe { proxy_pass http://unix_safe/; }
}
END

# With so many idle connections, a POST (or another request) that nginx reads before it hears what has become of them. Returns
# the status and the number of connections that the server has accepted since.
sub surprise {
    my ($path, $idle, $what, $server, @options) = @_;
    $server //= $backend;
    @options = (method => 'POST', body => 'x') unless @options;
    $server->drop;
    wait_for { !$server->stats->{open} } or die 'the pool is not empty';
    my @requests = map { begin($port, "$path?delay=300") } 1 .. $idle;
    $_->finish for @requests;
    # A connection that nginx has accepted already.
    my $client = begin($port, '/nowhere', keep_alive => 1);
    $client->receive;
    my ($worker) = $nginx->workers;
    kill STOP => $worker;
    my $request = begin($port, $path, @options, over => $client->{socket});
    $server->reset;
    $what->($server);
    kill CONT => $worker;
    my $answer = $request->finish;
    return "$answer->{status}, " . $server->stats->{accepted} . ' opened';
}

# The server counts a connection as closed just before it closes it.
sub end_all { my ($server, $how) = @_; $server->drop($how); wait_for { !$server->stats->{open} }; select undef, undef, undef, 0.05 }
sub close_all { end_all($_[0], 'close') }
sub reset_all { end_all($_[0], 'reset') }

sub errors {
    my $errors = () = $nginx->error_log =~ /prematurely closed|reset by peer|Broken pipe/g;
    return $errors;
}

is surprise('/on', 1, \&close_all), '200, 1 opened', 'closed: a new connection is used';
is surprise('/on', 1, \&reset_all), '200, 1 opened', 'reset: a new connection is used';
is surprise('/unix', 1, \&close_all, $unix), '200, 1 opened', 'a unix socket, closed: a new connection is used';
is surprise('/on', 200, \&close_all), '200, 1 opened', 'two hundred, closed: one new connection is used';
is surprise('/on', 1, $_, $backend, method => 'GET'), '200, 1 opened', 'GET: a new connection is used' for \&close_all, \&reset_all;
is errors(), 0, 'nothing has failed';

is surprise('/off', 1, \&close_all), '502, 0 opened', 'keepalive_check off, closed: the request fails';
is errors(), 1, 'and the log says so';
is surprise('/safe', 1, \&close_all), '200, 1 opened', 'keepalive_check off, retry safe: the request is sent again';
is surprise('/safe', 200, \&close_all), '200, 1 opened', 'two hundred: it is sent again once';
is errors(), 3, 'they have failed before';

# Nothing of the request has left: nginx finds the reset before it writes, and a unix socket refuses the first write.
is surprise('/off', 1, \&reset_all, $backend, @$_), '200, 1 opened', "keepalive_check off, reset, @$_: nginx itself sends it again"
    for [method => 'GET'], [method => 'POST', body => 'x'];
is surprise('/unix_off', 1, \&close_all, $unix), '502, 0 opened', 'a unix socket, keepalive_check off, closed: the request fails';
is surprise('/unix_off', 1, \&close_all, $unix, method => 'GET'), '200, 1 opened', 'a unix socket, GET: nginx itself sends it again';
is errors(), 7, 'which the log tells';
is surprise('/safe', $_, \&reset_all), '200, 1 opened', "retry safe, reset, $_ idle: it is sent again" for 1, 200;
is surprise('/unix_safe', 1, \&close_all, $unix), '200, 1 opened', 'a unix socket, retry safe: it is sent again';
my @refused = $nginx->error_log =~ /\[error\][^\n]*\(32: Broken pipe\) while sending request/g;
is @refused, 3, 'three had their first write refused';

# What the server sends without being asked is never taken for an answer, were it a goodbye.
for my $case (['fault=extra&after=300', qr/connection \d+ request/, qr/foreign/],
    [Keepalive::Backend::timed_out(300) . '&fault=close', qr/ok$/, qr/408/]) {
    my ($script, $first, $foreign) = @$case;
    for my $upstream (qw(on off)) {
        get($port, "/$upstream");
        my $client = begin($port, "/$upstream?$script", keep_alive => 1);
        like $client->receive, $first, "$upstream: the answer before the foreign one";
        my ($worker) = $nginx->workers;
        kill STOP => $worker;
        my $request = begin($port, "/$upstream", over => $client->{socket});
        # The foreign answer comes meanwhile.
        select undef, undef, undef, 0.5;
        kill CONT => $worker;
        my $answer = $request->finish;
        # (As with the stock module, it is, if nginx has not looked.)
        next if $upstream eq 'off';
        unlike "$answer->{status} $answer->{body}", $foreign, 'the foreign answer is not taken for one';
        is $answer->{status}, 200, 'the request has another connection';
    }
}

# The server restarts while the pool is full: no request fails.
$backend->drop;
wait_for { !$backend->stats->{open} };
$_->finish for map { begin($port, '/on?delay=300') } 1 .. 100;
is $backend->stats->{open}, 100, 'a hundred connections are idle';
$backend->drop;
$backend->refuse(50);
select undef, undef, undef, 0.2;
my @statuses = map { get($port, '/on', method => 'POST', body => 'x')->{status} } 1 .. 20;
is join(' ', @statuses), join(' ', (200) x 20), 'after a restart of the server all requests are answered';

# TLS: a server is started anew, and one says goodbye.
SKIP: {
    skip 'nginx has no TLS', 4 unless $tls;
    my ($certificate, $key) = self_signed('restarted');
    my ($there, $here) = map { free_port() } 1, 2;
    my $server = Keepalive::Nginx->new(http => <<"END")->start;
server {
    listen 127.0.0.1:$there ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / { return 200 "request \$connection_requests\n"; }
    location /brief { keepalive_timeout 300ms; return 200 "request \$connection_requests\n"; }
}
END
    my $client = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream secure { server 127.0.0.1:$there; keepalive 50; keepalive_stale_retry off; }
server { listen 127.0.0.1:$here; location / { proxy_pass https://secure; } }
END
    $_->finish for map { begin($here, '/') } 1 .. 50;
    $server->stop;
    $server->start;
    my @answers = map { get($here, '/', method => 'POST', body => 'x') } 1 .. 20;
    is join(' ', map { $_->{status} } @answers), join(' ', (200) x 20), 'after a restart of a TLS server all requests are answered';
    is $answers[-1]{body}, "request 20\n", 'by one new connection';
    my $carried = begin($here, '/nowhere', keep_alive => 1);
    $carried->receive;
    is get($here, '/brief')->{body}, "request 22\n", 'TLS: it is still used';
    my ($worker) = $client->workers;
    kill STOP => $worker;
    my $request = begin($here, '/brief', method => 'POST', body => 'x', over => $carried->{socket});
    select undef, undef, undef, 0.7;
    kill CONT => $worker;
    is $request->finish->{body}, "request 1\n", 'TLS: the server has said goodbye meanwhile: a new connection is used';
    unlike $client->error_log, qr/prematurely closed|reset by peer/, 'TLS: and nothing has failed';
    $client->stop;
    $server->stop;
}

$nginx->stop;
done_testing;
