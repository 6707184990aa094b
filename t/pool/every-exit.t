# However a request ends, its slot at the server is free again: with max_conns=1 the next request is served, and not two at
# once. A connection that was never established does not count either.
#
# faults: F9.1 "the client leaves while nginx connects" "the client leaves in the handshake"
# faults: F12.1 "no place was lost to a failure" "another one gets there"
# faults: F12.2 "the place is free" "and there is only one" "no connection is counted as active"

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Deaf;
use Keepalive::Nginx;
use Keepalive::Queue;
use Keepalive::Setup;
use Keepalive::Status;

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my ($port, $closed, $secure) = map { free_port() } 1 .. 3;
my $deaf = Keepalive::Deaf->start;
# It accepts, and never says a word.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) or die "listen: $!";
my $tls = has_feature('with-http_ssl_module');
my ($certificate, $key) = self_signed('localhost');

my $limited = 'max_conns=1 max_fails=0';
my $one = 'server ' . $backend->address(0) . " $limited;";
my %upstreams = (
    one     => $one,
    two     => $one . ' server ' . $backend->address(1) . " $limited backup;",
    refuses => "server 127.0.0.1:$closed $limited;",
    tried   => "server 127.0.0.1:$closed $limited; $one",
    deaf    => 'server ' . $deaf->address . " $limited;",
    mute    => 'server 127.0.0.1:' . $mute->sockport . " $limited;",
    secure  => "server 127.0.0.1:$secure $limited;",
    plain   => $one,
);
my $http = $tls ? <<"END" : '';
server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    location / { proxy_pass http://@{[ $backend->address(1) ]}; }
}
END
my $locations = <<'END';
client_max_body_size 20m;
client_body_buffer_size 16m;
location = /page { internal; return 200 page; }
location /brief { proxy_read_timeout 200ms; proxy_send_timeout 200ms; proxy_pass http://one; }
location /unbuffered { proxy_buffering off; proxy_pass http://one; }
location /streamed { proxy_request_buffering off; proxy_pass http://one; }
location /slow { proxy_limit_rate 1000; proxy_pass http://one; }
location /upgraded { proxy_set_header Connection upgrade; proxy_set_header Upgrade echo; proxy_pass http://one; }
location /closes { proxy_set_header Connection close; proxy_pass http://one; }
location /old { proxy_http_version 1.0; proxy_pass http://one; }
location /intercepted { proxy_intercept_errors on; error_page 404 500 = /page; proxy_pass http://one; }
location /next { proxy_next_upstream error timeout http_404 http_500 non_idempotent; proxy_pass http://two; }
location /ignored { proxy_ignore_client_abort on; proxy_pass http://one; }
location /mirrored { mirror /copied; return 200; }
location /copied { internal; proxy_pass http://one/?$args; }
location /hasty { proxy_connect_timeout 200ms; proxy_pass http://deaf; }
END
$locations .= <<'END' if $tls;
location /shakes { proxy_connect_timeout 200ms; proxy_pass https://mute; }
location /over_tls { proxy_pass https://secure; }
location /verified { proxy_ssl_verify on; proxy_ssl_trusted_certificate CERTIFICATE; proxy_ssl_name wrong.test; proxy_pass https://secure; }
location /no_tls { proxy_pass https://plain; }
END
$locations =~ s/CERTIFICATE/$certificate/;
$locations .= "location = /status { access_log off; keepalive_status; }\n" if is_ours();

my ($title, $nginx, $status);

sub status_of { return begin($port, @_)->finish->{status} }

# A client that leaves after this many seconds, or as soon as a part of the answer has arrived.
sub leaves {
    my ($when, $path, @options) = @_;
    my $before = $backend->requests;
    my $request = begin($port, $path, @options);
    if ($when eq 'answer') { $request->receive }
    elsif ($when eq 'request') { wait_for { $backend->requests > $before } }
    else { sleep $when }
    $request->abort;
    return 'left';
}

sub tunnel {
    my ($ends) = @_;
    my $tunnel = begin($port, '/upgraded?upgrade=1', headers => { Upgrade => 'echo', Connection => 'upgrade' }, keep_alive => 1);
    return 'no tunnel' if $tunnel->receive !~ /^HTTP\/1.1 101 /;
    $tunnel->more('x');
    $tunnel->receive;
    $tunnel->abort;
    return 101;
}

my @post = (method => 'POST', body => 'x' x 1000);
my @half = (method => 'POST', body => 'x' x 500, content_length => 1000);
my @huge = (method => 'POST', body => 'x' x 12_000_000);

# Ways to end a request at a server that is well: what happens, and what the client gets.
my @exits = (
    ['an answer', sub { status_of('/one') }, 200],
    (map { my $query = $_; ["an answer: $query", sub { status_of("/one?$query") }, qr/^(?:200|204|304|404|500)$/] } 'len=0', 'status=204',
        'status=304', 'status=404', 'status=500', 'framing=chunked', 'framing=trailers', 'framing=eof', 'version=1.0',
        'header=Connection:close', 'header=Connection:close&stay=1', 'len=1000000', 'fault=extra', 'fault=close', 'fault=reset'),
    # The next request must not come before it.
    ['a foreign answer behind its own', sub { my $got = status_of('/one?fault=extra&after=10'); sleep 0.05; $got }, 200],
    ['an interim answer', sub { status_of('/one?interim=103&len=1', timeout => 1) }, qr/^\d+$/],
    ['HEAD', sub { status_of('/one', method => 'HEAD') }, 200],
    ['POST', sub { status_of('/one', @post) }, 200],
    ['a request of HTTP/1.0', sub { status_of('/old') }, 200],
    ['a request that closes', sub { status_of('/closes') }, 200],
    ['an answer before the body', sub { status_of('/one?early=1&status=413&fault=hang&after=300', @huge) }, 413],
    ['an unbuffered body', sub { status_of('/streamed', @post) }, 200],
    ['a slow answer', sub { status_of('/slow?len=100&drip=1') }, 200],
    (map { my ($fault, $at) = @$_; (
        ["$fault, at $at", sub { status_of("/one?len=1000&fault=$fault&at=$at") }, $at eq 'body' ? 200 : 502],
        ["$fault, at $at, used before", sub { status_of('/one'); status_of("/one?len=1000&fault=$fault&at=$at&from=2") }, $at eq 'body' ? 200 : qr/200|502/],
        ["$fault, at $at, used before, POST", sub { status_of('/one'); status_of("/one?len=1000&fault=$fault&at=$at&from=2", @post) },
            $at eq 'body' ? 200 : qr/200|502/],
    ) } map { my $fault = $_; map { [$fault, $_] } qw(start header body) } qw(close reset)),
    ['no answer in time', sub { status_of('/brief?fault=hang&at=start') }, 504],
    ['half a header in time', sub { status_of('/brief?fault=hang&at=header') }, 504],
    ['half a body in time', sub { status_of('/brief?len=1000&fault=hang&at=body') }, 200],
    ['a body that is not taken in time', sub { status_of('/brief?early=1&delay=800', @huge) }, 504],
    ['garbage', sub { status_of('/one?raw=no%20HTTP%20at%20all%0D%0A%0D%0A', timeout => 1) }, qr/^\d+$/],
    ['a header that is too big', sub { status_of('/one?fill=30000&status=204') }, 502],
    ['a tunnel', \&tunnel, 101],
    ['X-Accel-Redirect', sub { status_of('/one?header=X-Accel-Redirect:/page&len=100') }, 200],
    ['X-Accel-Redirect to nowhere', sub { status_of('/one?header=X-Accel-Redirect:/none/at/all') }, qr/200|404/],
    ['an error page', sub { status_of('/intercepted?status=404&len=100') }, 200],
    ['the next server', sub { status_of('/next?status=500&len=100&only=0') }, 200],
    ['the next server after a failure', sub { status_of('/next?fault=close&at=start&only=0') }, 200],
    ['a subrequest that nobody reads', sub { status_of('/mirrored?len=100') }, 200],
    ['the client leaves before the answer', sub { leaves('request', '/one?delay=400') }, 'left'],
    ['the client leaves in the answer', sub { leaves('answer', '/one?len=3000000&drip=30') }, 'left'],
    ['the client leaves in the answer, unbuffered', sub { leaves('answer', '/unbuffered?len=3000000&drip=30') }, 'left'],
    ['the client leaves in a slow answer', sub { leaves('answer', '/slow?len=5000') }, 'left'],
    ['the client leaves in its body', sub { leaves(0.05, '/streamed', @half) }, 'left'],
    ['the client leaves in its body, buffered', sub { leaves(0.05, '/one', @half) }, 'left'],
    ['the client leaves, used before', sub { status_of('/one'); leaves('request', '/one?delay=400') }, 'left'],
    ['the client leaves, which is ignored', sub { leaves('request', '/ignored?delay=100') }, 'left'],
    ['one too many', sub { my $held = begin($port, '/one?delay=200'); settle($port); my $answer = status_of('/one'); $held->finish; $answer }, 502],
    ['a server that refuses, and the next one', sub { status_of('/tried') }, 200],
);

# The same at a server that is never well: the next one that is sent there gets there.
my @failures = (
    ['refused', sub { status_of('/refuses') }, 502],
    ['no connection in time', sub { status_of('/hasty') }, 504],
    ['the client leaves while nginx connects', sub { leaves(0.1, '/deaf') }, 'left', '/hasty'],
    $tls ? (
        ['no handshake in time', sub { status_of('/shakes') }, 504],
        ['the client leaves in the handshake', sub { leaves(0.1, '/shakes') }, 'left', '/shakes'],
        ['a certificate of somebody else', sub { status_of('/verified') }, 502],
        ['no TLS', sub { status_of('/no_tls?raw=x&early=1') }, 502],
    ) : (),
);

# A request that has the place for some milliseconds, if it is free.
sub hold {
    my ($path, $delay) = @_;
    my $before = $backend->requests;
    my $held = begin($port, "$path?delay=$delay");
    wait_for { $backend->requests > $before || IO::Select->new($held->{socket})->can_read(0) };
    return $held if $backend->requests > $before;
    $held->finish;
    return;
}

# Exactly one at a time.
sub one_place {
    my ($path, $what) = @_;
    my ($held, $other);
    # nginx may notice a moment later that clients have left.
    ok wait_for { $held = hold($path, 120) }, "$what: the place is free";
    $other = status_of($path);
    # On a busy machine it may have been given back by then.
    if ($held && $other == 200) {
        $held->finish;
        $held = hold($path, 1000);
        $other = status_of($path);
    }
    is $other, 502, "$what: and there is only one";
    is $held && $held->finish->{status}, 200, "$what: whoever had it is answered";
    # A place that is lost makes each request wait until it is given up; a busy machine is not always that slow.
    ok scalar(grep { my $begun = time; status_of($path) == 200 && time - $begun < 0.5 } 1 .. 3), "$what: nobody waits for it";
}

sub nobody_is_active {
    my ($what) = @_;
    return unless is_ours();
    my $active = sub { my $all = $status->json->{upstreams}; join ' ', grep { $all->{$_}{active} } sort keys %$all };
    wait_for { $active->() eq '' };
    is $active->(), '', "$what: no connection is counted as active";
}

for my $case (['', is_ours() ? 'keepalive 0;' : ''], ['zone %s 64k;', 'keepalive 4;']) {
    my ($zone, $keepalive) = @$case;
    $title = join ' and ', $zone ? 'zone' : 'no zone', $keepalive =~ s/;//r;
    $nginx = queue_nginx($port, { map { $_ => "$upstreams{$_} $keepalive" . ($zone && sprintf $zone, $_) } keys %upstreams },
        http => $http, locations => $locations)->start;
    $status = Keepalive::Status->new($port) if is_ours();
    for my $exit (@exits) {
        my ($what, $run, $expected) = @$exit;
        $backend->drop;
        my $got = $run->();
        like $got, ref $expected ? $expected : qr/^$expected$/, "$title, $what: $got";
        one_place('/one', "$title, $what");
        nobody_is_active("$title, $what");
    }
    for my $failure (@failures) {
        my ($what, $run, $expected, $again) = @$failure;
        for my $round (1, 2) {
            my $got = $run->();
            is $got, $expected, "$title, $what, round $round: $got";
            nobody_is_active("$title, $what, round $round");
        }
        is status_of($again), 504, "$title, $what: another one gets there" if $again;
    }
    is status_of("/over_tls"), 200, "$title: the server with the wrong certificate is free" if $tls;
    one_place('/plain', "$title, the one without TLS");
    unlike $nginx->error_log, qr/no live upstreams[^\n]*"GET \/(?:refuses|hasty|deaf|shakes|verified|no_tls)/, "$title: no place was lost to a failure";
    $nginx->stop;
}
done_testing;
