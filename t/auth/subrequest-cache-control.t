# nginx-conf/auth-cache-control.conf and auth-cache-stale.conf: nginx accepts these files, with only addresses and folders replaced; a
# decision is remembered for as long as the server says, and for nobody else; a stale one is used while the server is down, not for longer.
#
# faults: F20.9 "a decision for one request is not used for another" "made up to look like another key"

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my ($app, $auth) = map { Keepalive::Backend->start } 1, 2;
my $port = free_port();
my $folders = 0;
my ($nginx, $cache);

# Starts an nginx with one of these files. The authorisation server does what a request says in X-Auth, which is in no key.
sub example {
    my ($name, %changes) = @_;
    open my $in, '<', "nginx-conf/auth-$name.conf" or die "auth-$name.conf: $!";
    my $text = do { local $/; <$in> };
    $cache = work_dir() . '/decisions' . ++$folders;
    my %to = ('127\.0\.0\.1:8080' => $app->address, '127\.0\.0\.1:8090' => $auth->address, 'http://auth/check' => 'http://auth/check?$http_x_auth',
        'listen      80' => "listen 127.0.0.1:$port", '/run/nginx-decisions' => $cache, %changes);
    for my $pattern (sort keys %to) {
        ok $text =~ s/$pattern/$to{$pattern}/g, "$name: the places to change are there";
    }
    $nginx = Keepalive::Nginx->new(text => $text, workers => 2);
    my ($accepted, $said) = $nginx->test;
    ok $accepted, "$name: accepted" or diag $said;
    unlike $said, qr/\[(?:warn|notice)\]/, "$name: without a word" or diag $said;
    $_->drop, $_->reset for $app, $auth;
    $nginx->start;
}

sub ask {
    my ($path, $script, @headers) = @_;
    my %options = ref $headers[-1] eq 'HASH' ? %{ pop @headers } : ();
    return get($port, $path, headers => ["X-Auth: $script", @headers], %options);
}

# Where the decision about the last request came from, as the log says.
sub from {
    open my $in, '<', $nginx->dir . '/logs/access.log' or die "access.log: $!";
    my $line = (my @lines = <$in>)[-1];
    return $line =~ / auth \S* \S* (\S*) upstream / ? $1 || '-' : "no such line: $line";
}

# A request in short: the status, where the decision came from, and the user that the site sees.
sub told {
    my ($answer) = ask(@_);
    # nginx writes the log after the answer.
    sleep 0.01;
    return join ' ', $answer->{status}, from(), $answer->{status} == 200 ? map { $_ // '-' } (values_of('X-User', $app->last_request))[0] : ();
}

sub allows { my ($user, @more) = @_; return join '&', "status=200&header=X-User:$user", @more }
sub cached { return 'header=Cache-Control:' . join ',', @_ }
sub bearer { return "Authorization: Bearer $_[0]" }

{
    example('cache-control');
    my $number = 0;
    # As long as the server says, and by default not at all.
    for my $case (['', 'MISS'], [cached('max-age=0'), 'MISS'], [cached('max-age=60'), 'HIT'], [cached('public', 's-maxage=60', 'max-age=0'), 'HIT'],
        ['header=Expires:Thu,%2001%20Jan%202037%2000:00:00%20GMT', 'HIT'],
        (map { [cached($_, 'max-age=60'), 'MISS'] } qw(private no-store no-cache)), [cached('max-age=60') . '&header=Cache-Control:no-store', 'MISS'],
        [cached('max-age=60') . '&header=Set-Cookie:a=b', 'MISS'], [cached('max-age=60') . '&header=Vary:*', 'MISS'],
        [cached('max-age=60') . '&header=Vary:Origin', 'HIT']) {
        my ($headers, $from) = @$case;
        my $user = bearer(++$number);
        is told('/', allows('anne', $headers), $user), '200 MISS anne', "$headers: asked";
        is told('/', allows('carl', $headers), $user), $from eq 'HIT' ? '200 HIT anne' : '200 MISS carl', "$headers: then $from";
    }
    is told('/', allows('anne', cached('max-age=1')), bearer('short')), '200 MISS anne', 'a second';
    is told('/', 'status=403', bearer('short')), '200 HIT anne', 'a second: still';
    sleep 2.1;
    is told('/', 'status=403', bearer('short')), '403 EXPIRED', 'a second: over';

    # Which answers: decisions.
    for my $case ([200 => 200], [204 => 200], [401 => 401], [403 => 403]) {
        my ($says, $status) = @$case;
        ask('/', "status=$says&" . cached('max-age=60'), bearer("status $says"));
        my $answer = ask('/', 'status=500', bearer("status $says"));
        is $answer->{status}, $status, "$says: remembered";
    }
    for my $says (302, 404, 429, 500, 502, 503) {
        ask('/', "status=$says&header=Location:/x&" . cached('max-age=60'), bearer("status $says"));
        is told('/', allows('anne'), bearer("status $says")), '200 MISS anne', "$says: not remembered, whatever it says";
    }

    # For nobody else. Each of these differs from the first in one thing.
    my @first = (bearer('a'), 'Cookie: theme=dark; session=s');
    is told('/a?b', allows('anne', cached('max-age=60')), @first), '200 MISS anne', 'the first request';
    is told('/a?b', 'status=500', @first), '200 HIT anne', 'again: remembered';
    is told('/a?b', 'status=500', bearer('a'), 'Cookie: session=s; theme=light'), '200 HIT anne', 'with another cookie that nobody looks at';
    for my $case (['/a?c', @first], ['/a', @first], ['/A?b', @first], ['/%61?b', @first], ['/a?b', bearer('b'), $first[1]], ['/a?b', $first[1]],
        ['/a?b', $first[0]], ['/a?b', bearer('a'), 'Cookie: session=S'], ['/a?b', bearer('a'), 'Cookie: session=s; session=t'],
        ['/a?b', bearer('a'), 'Cookie: session=t; session=s'], ['/a?b', 'Authorization: bearer a', $first[1]], ['/a?b', @first, { method => 'POST', body => 'x' }],
        ['/a?b', @first, { method => 'HEAD' }]) {
        my ($path, @headers) = @$case;
        my @named = map { ref ? "method $_->{method}" : $_ } @headers;
        my $is_same = $headers[-1] eq 'Cookie: session=s; session=t';
        my $answer = ask($path, 'status=403', @headers);
        is $answer->{status}, $is_same ? 200 : 403, "a decision for one request is not used for another: $path @named";
        my @sent = values_of('Cookie', $auth->last_request);
        is_deeply \@sent, ['session=t'], 'the first of two cookies counts' if $headers[-1] eq 'Cookie: session=t; session=s';
    }
    # The name of the site, which a client may write in two places.
    {
        my $line = 'GET http://other.example/a?b HTTP/1.1';
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "connect: $!";
        print $socket join "\r\n", $line, 'Host: localhost', @first, 'X-Auth: status=403', 'Connection: close', '', '';
        like scalar(<$socket>), qr/ 403 /, "a decision for one request is not used for another: $line";
        is((values_of('Host', $auth->last_request))[0], 'other.example', 'the question names the host that nginx has chosen');
    }

    # Requests made up so that their keys might be equal: what they consist of is cut at another place.
    for my $case (
        ['/x', ['Authorization: a;b', 'Cookie: session=c'], ['Authorization: a', 'Cookie: session=b;c']],
        ['/x', ['Authorization: a', 'Cookie: session=c'], ['Authorization: a;c']],
        ['/x', ['Authorization: a;c'], ['Authorization: a', 'Cookie: session=c']],
        ['/x', ['Cookie: session=c'], ['Authorization: ;c']],
        ['/x', ['Authorization: Bearer a'], ['Cookie: session=Bearer a']],
    ) {
        my ($path, $one, $other) = @$case;
        $path .= ++$number;
        ask($path, allows('anne', cached('max-age=60')), @$one);
        is ask($path, 'status=403', @$other)->{status}, 403, "made up to look like another key: @$other for @$one";
    }
    ask('/y/b', allows('anne', cached('max-age=60')), 'Authorization: c');
    is ask('/y', 'status=403', "Authorization: $_")->{status}, 403, "made up to look like another key: $_" for '/b c', 'b c', ' /b c';

    # What the server sees of a request: what is in the key, and Origin.
    ask('/see', 'status=200', @first, 'Origin: https://a.example', 'X-User: root', 'X-Forwarded-For: 10.0.0.1', 'X-Original-URI: /public', 'X-Api-Key: k');
    my @names = sort map { lc s/:.*//r } @{ $auth->last_request->{headers} };
    is join(' ', @names), 'authorization cookie host origin x-original-method x-original-uri', 'the server sees what the key has, and Origin';
    is((values_of('X-Original-URI', $auth->last_request))[0], '/see', 'and the true URI');
    is((values_of('Cookie', $auth->last_request))[0], 'session=s', 'one cookie');
    ask('/see', 'status=200');
    is_deeply [values_of('Cookie', $auth->last_request)], [], 'or none';

    # Vary: by what it names.
    my %origin = map { $_ => "Origin: https://$_.example" } qw(a b);
    is told('/vary', allows('anne', cached('max-age=60'), 'header=Vary:Origin'), @first, $origin{a}), '200 MISS anne', 'Vary: for one origin';
    is told('/vary', 'status=403&header=Vary:Origin&' . cached('max-age=60'), @first, $origin{b}), '403 MISS', 'Vary: for another one';
    is told('/vary', 'status=500', @first, $origin{a}), '200 HIT anne', 'Vary: the first one again';
    is told('/vary', 'status=500', @first, $origin{b}), '403 HIT', 'Vary: the other one again';
    is told('/vary', 'status=401', @first), '401 MISS', 'Vary: and for none';
    is told('/all', allows('anne', cached('max-age=60')), @first, $origin{a}), '200 MISS anne', 'without Vary';
    is told('/all', 'status=403', @first, $origin{b}), '200 HIT anne', 'without Vary: for each origin';
    # Why the document says: one line.
    my $lines = 'header=Vary:Origin&header=Vary:Accept';
    told('/lines', allows('anne', cached('max-age=60'), $lines), @first, $origin{a});
    is told('/lines', 'status=403', @first, $origin{b}), version_at_least('1.23.0') ? '403 MISS' : '200 HIT anne', 'Vary in two lines: nginx before 1.23 obeys the last';

    # A long key.
    my @long = ("Authorization: Bearer " . 'l' x 7900, 'Cookie: session=' . 'm' x 7900);
    is told('/' . 'n' x 7900, allows('anne', cached('max-age=60')), @long), '200 MISS anne', 'a long key';
    is told('/' . 'n' x 7900, 'status=500', @long), '200 HIT anne', 'a long key: remembered';
    is ask('/' . 'n' x 7900, 'status=403', $long[0], $long[1] . 'm')->{status}, 403, 'a long key: one byte more';

    # Many at once ask once.
    my $before = $auth->stats->{requests};
    my @answers = map { $_->finish } map { begin($port, '/many', headers => ['X-Auth: ' . allows('anne', 'delay=100', cached('max-age=60')), bearer('many')]) } 1 .. 50;
    is scalar(grep { $_->{status} == 200 } @answers), 50, 'fifty at once are allowed';
    is $auth->stats->{requests} - $before, 1, 'by one question';
    is join(' ', map { sprintf '%o', (stat)[2] & 07777 } $cache), '700', 'the folder is for nginx only';
    is told('/', 'fault=close&at=start', bearer('new')), '500 MISS', 'a failure is a failure';
    is told('/a?b', 'fault=close&at=start', @first), '200 HIT anne', 'but not for a decision that is still good';
    unlike $nginx->error_log, qr/\[(?:warn|alert|crit)\]/, 'the log has no warning';
    $nginx->stop;
}
{
    # A period in which this test ends.
    example('cache-stale', '\\\\d\+\)\\\\d\{3\}' => '\d+)\d{9}');
    my @anne = (bearer('anne'));
    is told('/', allows('anne', cached('max-age=1')), @anne), '200 MISS anne', 'stale: a decision';
    is told('/', 'status=403&' . cached('max-age=1'), bearer('bob')), '403 MISS', 'stale: a denial';
    is told('/admin/', allows('anne', cached('max-age=1')), @anne), '200 - anne', 'stale: a place where decisions are new';
    sleep 2.1;
    for my $script ('fault=close&at=start', 'fault=reset&at=header', 'status=500', 'status=502', 'status=503', 'status=504') {
        is told('/', $script, @anne), '200 STALE anne', "stale: $script";
        is told('/', $script, bearer('bob')), '403 STALE', "stale: $script: a denial is a denial";
        is ask('/', $script, bearer('carl'))->{status}, 500, "stale: $script: nobody new";
        is ask('/b', $script, @anne)->{status}, 500, "stale: $script: for what was asked only";
        is ask('/admin/', $script, @anne)->{status}, 503, "stale: $script: and not where decisions must be new";
    }
    is ask('/', 'raw=nonsense&fault=close', @anne)->{status}, 500, 'stale: not for an answer that nginx takes for HTTP/0.9; and that allows nobody';
    my $begun = time;
    is told('/', 'fault=hang&at=start', @anne), '200 STALE anne', 'stale: no answer';
    cmp_ok time - $begun, '<', 3, 'stale: in time';
    $auth->drop;
    wait_for { !$auth->stats->{open} };
    $auth->refuse(500, 0);
    is told('/', 'status=403', @anne), '200 STALE anne', 'stale: nobody listens';
    ok wait_for { ask('/x', 'status=204')->{status} == 200 }, 'stale: the server is back';
    is told('/', 'status=429', @anne), '500 EXPIRED', 'stale: an answer that is no decision is none';
    is told('/', 'status=401', @anne), '401 EXPIRED', 'stale: the server is asked as soon as it answers';
    $nginx->stop;

    # As long as the period.
    example('cache-stale', '\\\\d\+\)\\\\d\{3\}' => '\d+)\d{0}');
    is told('/', allows('anne', cached('max-age=60')), @anne), '200 MISS anne', 'period: a decision';
    sleep 1.1;
    is told('/', 'status=500', @anne), '500 MISS', 'period: it is over, and so is the decision';
    $nginx->stop;
}
{
    # What the server says itself, with auth-cache-control.conf.
    example('cache-control', 'proxy_cache_lock         on;' => 'proxy_read_timeout 1s;');
    my $script = allows('anne', cached('max-age=1', 'stale-if-error=3'));
    is told('/', $script, bearer('anne')), '200 MISS anne', 'stale-if-error: a decision';
    sleep 2.1;
    is told('/', 'fault=close&at=start', bearer('anne')), '200 STALE anne', 'stale-if-error: no connection';
    is told('/', 'status=500', bearer('anne')), '500 EXPIRED', 'stale-if-error: not for its own 500';
    sleep 3;
    is told('/', 'fault=close&at=start', bearer('anne')), '500 EXPIRED', 'stale-if-error: no longer than it says';
    $nginx->stop;
}

done_testing;
