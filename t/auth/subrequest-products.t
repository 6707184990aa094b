# nginx-conf/auth-authelia.conf, auth-authentik.conf, auth-oauth2-proxy.conf and auth-vouch.conf: nginx accepts these files, with only
# addresses and files replaced, and they do what they promise. Instead of the product, a small server answers as its documentation
# says (docs/recipes.md has the addresses). Clients use TLS.
#
# about: configuration

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client ();
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'this nginx has no TLS' unless has_feature('with-http_ssl_module');
plan skip_all => 'there is no curl' if system('curl --version >/dev/null 2>&1') != 0;

my ($certificate, $key) = self_signed('app.example.com');
my $app = Keepalive::Backend->start;
my ($plain, $tls) = (free_port(), free_port());

# The users whose sessions there are: a cookie has the name of its user.
my %groups = (alice => 'staff,admins', bob => 'staff');

# A request as the handlers see it: { method, path, args, headers (names in lower case), body }. They return a status, headers, and a
# body. In the headers, a name may be repeated.
sub session { my ($request, $name) = @_; return (($request->{headers}{cookie} // '') =~ /(?:^|; )\Q$name\E=(alice|bob)(?:;|$)/)[0] }

sub escaped { return $_[0] =~ s/([^\w.~-])/sprintf '%%%02X', ord $1/ger }

# "ForwardAuth".
sub authelia {
    my ($request) = @_;
    my $headers = $request->{headers};
    return (200, [], 'portal') if $headers->{host} eq 'auth.example.com';
    return (404, [], '') if $request->{path} ne '/api/authz/forward-auth';
    my ($method, $proto, $host, $uri) = map { $headers->{"x-forwarded-$_"} // return (400, [], 'bad') } qw(method proto host uri);
    return (400, [], 'bad') if $proto ne 'https' || $host ne 'app.example.com';
    my $user = session($request, 'authelia_session');
    return (200, [], '') if $uri =~ m{^/public};
    if (my $basic = $headers->{authorization}) {
        return (401, ['WWW-Authenticate' => 'Basic realm="Authorization Required"'], '401 Unauthorized') if $basic ne 'Basic Ym9iOmI=';
        $user = 'bob';
    }
    if (!$user) {
        my $is_browser = ($headers->{accept} // '') =~ /text\/html/ && ($headers->{'x-requested-with'} // '') ne 'XMLHttpRequest';
        my $status = !$is_browser ? 401 : $method =~ /^(?:GET|HEAD|OPTIONS)$/ ? 302 : 303;
        my $to = 'https://auth.example.com/?rd=' . escaped("$proto://$host$uri") . "&rm=$method";
        return ($status, [Location => $to], qq(<a href="$to">$status</a>));
    }
    return (403, [], '403 Forbidden') if $uri =~ m{^/admin} && $groups{$user} !~ /admins/;
    return (200, ['Remote-User' => $user, 'Remote-Groups' => $groups{$user}, 'Remote-Name' => ucfirst $user,
        'Remote-Email' => "$user\@example.com"], '200 OK');
}

# The endpoint for nginx. Whatever begins with the outpost's own path is allowed, as the outpost's source shows.
sub authentik {
    my ($request) = @_;
    my $headers = $request->{headers};
    return (404, [], 'no such application') if ($headers->{'x-forwarded-host'} // $headers->{host}) ne 'app.example.com';
    return (200, ['Set-Cookie' => 'authentik_proxy=; Max-Age=0'], 'bye') if $request->{path} eq '/outpost.goauthentik.io/sign_out';
    return (302, [Location => 'https://authentik.example.com/application/o/authorize/', 'Set-Cookie' => 'authentik_proxy=state'], '')
        if $request->{path} eq '/outpost.goauthentik.io/start';
    return (404, [], '') if $request->{path} ne '/outpost.goauthentik.io/auth/nginx';
    my $url = $headers->{'x-original-url'} // return (500, [], 'configuration error');
    if (my $user = session($request, 'authentik_proxy')) {
        return (200, ['X-authentik-username' => $user, 'X-authentik-groups' => $groups{$user} =~ tr/,/|/r,
            'X-authentik-email' => "$user\@example.com", 'X-authentik-uid' => "uid-$user", 'User-Agent' => $headers->{'user-agent'} // '',
            ($headers->{cookie} =~ /extend/ ? ('Set-Cookie' => "authentik_proxy=$user; Max-Age=60; HttpOnly") : ())], '');
    }
    return (200, [], '') if $url =~ m{^https://app\.example\.com/(?:public|outpost\.goauthentik\.io)};
    return (401, ['Set-Cookie' => 'authentik_proxy=new; Path=/; HttpOnly'], 'unauthorized request');
}

# With --reverse-proxy, --set-xauthrequest, --skip-auth-route=^/public and a session in two cookies.
sub oauth2_proxy {
    my ($request) = @_;
    my $headers = $request->{headers};
    my @cache = ('Cache-Control' => 'no-cache, no-store, must-revalidate, max-age=0');
    if ($request->{path} eq '/oauth2/start') {
        my $back = $request->{args} =~ /^rd=([^&]*)/ ? $1 : $headers->{'x-auth-request-redirect'} // '/';
        $back = '/' if $back !~ m{^/(?![/\\])};
        return (302, [@cache, Location => 'https://idp.example.com/?state=' . escaped("nonce:$back"),
            'Set-Cookie' => '_oauth2_proxy_csrf=nonce; Path=/; HttpOnly'], '');
    }
    return (302, [Location => '/', 'Set-Cookie' => '_oauth2_proxy=; Max-Age=0'], '') if $request->{path} eq '/oauth2/sign_out';
    return (404, [], '') if $request->{path} ne '/oauth2/auth';
    return (202, \@cache, '') if ($headers->{'x-forwarded-uri'} // $request->{path}) =~ m{^/public};
    my $user = session($request, '_oauth2_proxy_0')
        or return (401, [@cache, 'Set-Cookie' => '_oauth2_proxy=; Path=/; Max-Age=0'], 'Unauthorized');
    return (403, \@cache, 'Forbidden') if ($headers->{'x-forwarded-uri'} // '') =~ m{^/admin} && $groups{$user} !~ /admins/;
    return (202, [@cache, 'X-Auth-Request-User' => $user, 'X-Auth-Request-Email' => "$user\@example.com",
        'X-Auth-Request-Groups' => $groups{$user}, $headers->{cookie} =~ /extend/ ? ('Set-Cookie' => "_oauth2_proxy_0=$user; Path=/; HttpOnly",
        'Set-Cookie' => '_oauth2_proxy_1=more; Path=/; Expires=Thu, 01 Jan 2037 00:00:00 GMT; HttpOnly') : ()], '');
}

sub vouch {
    my ($request) = @_;
    my $headers = $request->{headers};
    return (302, [Location => 'https://idp.example.com/', 'Set-Cookie' => 'VouchSession=state'], '')
        if $headers->{host} eq 'vouch.example.com' && $request->{path} eq '/login';
    return (404, [], '') if $request->{path} ne '/validate';
    my $user = $headers->{host} eq 'app.example.com' && session($request, 'VouchCookie')
        or return (401, ['Set-Cookie' => 'VouchCookie=; Domain=example.com; Max-Age=0', 'X-Vouch-Error' => 'no jwt found in request'], 'no jwt');
    return (200, ['X-Vouch-User' => "$user", 'X-Vouch-Success' => 'true'], "200 OK\n");
}

# Answers requests until the test ends, several connections at a time. What it has seen is in files: a line for each request, and a
# byte for each connection.
my @servers;
my $seen = work_dir() . '/seen';
END { local ($?, $!); kill KILL => @servers if @servers; waitpid $_, 0 for @servers }

sub start_server {
    my ($handler) = @_;
    unlink "$seen.connections";
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100, ReuseAddr => 1) or die "no server: $!";
    my $test = $$;
    defined(my $pid = fork) or die "fork: $!";
    if ($pid) {
        push @servers, $pid;
        return $socket->sockport;
    }
    @servers = ();
    $SIG{$_} = sub { POSIX::_exit(0) } for qw(TERM HUP INT);
    my $select = IO::Select->new($socket);
    my %bytes;
    while (getppid == $test) {
        for my $ready ($select->can_read(1)) {
            if ($ready == $socket) {
                $select->add(my $client = $socket->accept);
                note_seen('.connections', 'c');
                next;
            }
            if (!sysread $ready, $bytes{$ready}, 65536, length($bytes{$ready} // '')) {
                delete $bytes{$ready};
                $select->remove($ready);
                close $ready;
                next;
            }
            while ($bytes{$ready} =~ s/^(\w+) (\S+) HTTP\/1\.1\r\n(.*?)\r\n\r\n//s) {
                my ($method, $uri, $head) = ($1, $2, $3);
                my %headers = map { /^([^:]+): *(.*)$/ ? (lc $1 => $2) : () } split /\r\n/, $head;
                my ($path, $args) = split /\?/, $uri, 2;
                note_seen('', "$method $uri " . join('|', map { "$_: $headers{$_}" } sort keys %headers) . "\n");
                my ($status, $fields, $body) = -e "$seen.broken" ? (500, [], 'broken')
                    : $handler->({ method => $method, path => $path, args => $args // '', headers => \%headers });
                my $answer = "HTTP/1.1 $status Status\r\nContent-Length: " . length($body) . "\r\n";
                my @fields = @$fields;
                while (my ($name, $value) = splice @fields, 0, 2) { $answer .= "$name: $value\r\n" }
                syswrite $ready, "$answer\r\n" . ($method eq 'HEAD' ? '' : $body);
            }
        }
    }
    POSIX::_exit(0);
}

sub note_seen { my ($file, $text) = @_; open my $out, '>>', $seen . $file or die "$seen: $!"; syswrite $out, $text }

# What the server has seen since the last call: its requests.
sub questions {
    open my $in, '<', $seen or return;
    my @lines = <$in>;
    truncate $seen, 0;
    return map { chomp; $_ } @lines;
}

# An nginx with one of these files, and the place of its product.
sub example {
    my ($name, $place, $port) = @_;
    open my $in, '<', "nginx-conf/auth-$name.conf" or die "auth-$name.conf: $!";
    my $text = do { local $/; <$in> };
    my %to = ("server 127\\.0\\.0\\.1:$place;" => "server 127.0.0.1:$port;", 'server 127\.0\.0\.1:8080;' => 'server ' . $app->address . ';',
        'listen      80;' => "listen 127.0.0.1:$plain;", 'listen      443 ssl;' => "listen 127.0.0.1:$tls ssl;",
        '/etc/nginx/example\.com\.crt' => $certificate, '/etc/nginx/example\.com\.key' => $key);
    for my $pattern (sort keys %to) {
        ok $text =~ s/$pattern/$to{$pattern}/g, "$name: the places to change are there";
    }
    my $nginx = Keepalive::Nginx->new(text => $text);
    my ($accepted, $said) = $nginx->test;
    ok $accepted, "$name: accepted" or diag $said;
    unlike $said, qr/\[(?:warn|notice)\]/, "$name: without a word" or diag $said;
    $_->drop, $_->reset for $app;
    return $nginx->start;
}

# An answer to curl: ask('/path', options of curl).
sub ask {
    my ($path, @options) = @_;
    my $host = 'app.example.com';
    $host = $1 if $path =~ s{^//([\w.]+)}{};
    my @command = (qw(curl -s -i -k --raw --path-as-is --max-time 10 --http1.1), '--resolve', "$host:$tls:127.0.0.1",
        @options, "https://$host:$tls$path");
    open my $output, '-|', @command or die "curl: $!";
    local $/;
    return Keepalive::Client::parse((<$output> // '') =~ s/^HTTP\/1\.1 100 Continue\r\n\r\n//r);
}

sub header { map { ('-H', $_) } @_ }

# The values of headers that the site has got with its last request.
sub at_site { my $request = $app->last_request; return join ' ', map { my @values = values_of($_, $request); @values ? join('+', @values) : '-' } @_ }

sub in_short { my ($answer) = @_; return join ' ', $answer->{status}, $answer->{headers}{location} // () }

# Whether the site got a request since the last call.
my $site_requests = 0;
sub site_asked { my $before = $site_requests; $site_requests = $app->stats->{requests}; return $site_requests - $before }

# What all of them have in common. `cookie` is the cookie of a user without the name, `names` the headers that tell the user, the first
# with the name itself; `login` is the answer to a browser without a session that asks for /a?b=1&c=2, `uri` the header of the
# question that names the URI.
sub expect_authorisation {
    my ($nginx, $name, %is) = @_;
    my ($user, @names) = @{ $is{names} };
    my @html = header('Accept: text/html,*/*');
    my @alice = header("Cookie: theme=dark; $is{cookie}=alice");
    my @bob = header("Cookie: $is{cookie}=bob");

    # Who has no session. The site gets nothing.
    questions();
    site_asked();
    is in_short(ask('/a?b=1&c=2', @html)), $is{login}, "$name: a browser without a session is sent to the login";
    my @asked = questions();
    like $asked[0], qr/\Q$is{uri}\E/, "$name: the question names the URI";
    unlike $asked[0], qr/content-length|transfer-encoding/, "$name: and announces no body";
    is in_short(ask('/a?b=1&c=2', @html, header("Cookie: $is{cookie}=eve"))), $is{login}, "$name: so is an unknown session";
    is ask($is{api}, @{ $is{api_headers} || [] })->{status}, 401, "$name: other clients get 401";
    my $answer = ask('/a', @html, '-d', 'x' x 10_000);
    like $answer->{status}, qr/^30[23]$/, "$name: a POST is redirected too";
    like ask('/a', @html, '--head')->{status}, qr/^302$/, "$name: and HEAD";
    is site_asked(), 0, "$name: the site got none of these";

    # Who has one.
    my @spoofed = header(map { ("$_: root", tr/-/_/r . ': root', lc . ': root') } $user, @names);
    is ask('/a', @alice, @spoofed)->{status}, 200, "$name: alice is allowed";
    is at_site($user), 'alice', "$name: the site has her name, and none that she has sent";
    is join(' ', map { $_ eq '-' || /alice|Alice|admins|true/ ? () : $_ } split / /, at_site(@names)), '', "$name: nor another header";
    is ask('/a', @bob)->{status}, 200, "$name: bob is allowed";
    is at_site($user), 'bob', "$name: and is bob";
    is ask('/a', @bob, '-d', 'x' x 10_000)->{status}, 200, "$name: a POST";
    is at_site('Content-Length'), '10000', "$name: with its body";
    is site_asked(), 3, "$name: the site got these";
    if ($is{forbidden}) {
        is in_short(ask('/admin', @html, @bob)), '403', "$name: known, but not allowed: no login";
        is site_asked(), 0, "$name: and nothing for the site";
    }
    if ($is{public}) {
        is ask('/public/a', @spoofed)->{status}, 200, "$name: what is public";
        is at_site($user, @names), join(' ', map { '-' } $user, @names), "$name: in nobody's name";
    }

    # What the product takes from the client itself, and what the client must not say in its place.
    questions();
    my @trusted = map { ("X-Forwarded-$_: spoofed", "X-Original-$_: spoofed") } qw(Host Uri URI Url URL For Proto Method Server);
    ask('/a', @alice, header(@trusted, 'X-Real-IP: spoofed', 'Forwarded: host=spoofed', 'X-Auth-Request-Redirect: spoofed', 'X-Authelia-URL: spoofed'));
    unlike join("\n", questions()), qr/spoofed/, "$name: nothing of the client's claims reaches the product";
    is at_site(qw(X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto)), '127.0.0.1 app.example.com https', "$name: nor, where it matters, the site";
    ask('', @alice, '--request-target', 'http://app.example.com/a', header('Host: public.example.com'));
    unlike join("\n", questions()), qr/public\.example/, "$name: the question names the host that nginx has chosen";

    # Paths that may be read in two ways.
    site_asked();
    for my $path ('/public/../admin', '/public/%2e%2e/admin', '/public/%2E./admin', '/public%2f..%2fadmin', '/public/..%2Fadmin',
        '/public/..;/admin', '/public\..\admin', '/public/..%5cadmin', '/outpost.goauthentik.io/../admin', '/a/.', '/a/..?b', '/./a',
        '/public/..%3b/admin') {
        is ask($path, @bob)->{status}, 400, "$name: $path is refused";
    }
    is scalar(questions()) + site_asked(), 0, "$name: without a question";
    is ask($_, @alice)->{status}, 200, "$name: $_ is not" for '/.well-known/a', '/a..b/c', '/a/...', '/a%2Fb', '/a?b=/../c', '/..a';

    # WebSocket, and nothing else.
    my @upgrade = header('Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13');
    like in_short(ask('/a?b=1&c=2', @html, @upgrade)), qr/^\Q$is{login}\E$/, "$name: WebSocket without a session";
    my $socket = ask('/?upgrade=1', @alice, @upgrade, '--max-time', 1);
    is $socket->{status}, 101, "$name: WebSocket";
    is at_site('Upgrade', 'Connection'), 'websocket upgrade', "$name: as the site sees it";
    is ask('/?upgrade=0', @alice, header('Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk'))->{status}, 200, "$name: h2c";
    is at_site('Upgrade', 'Connection'), '- -', "$name: is not passed";

    # The location of the question, plain HTTP, and the connections.
    is ask($is{question}, @alice)->{status}, 404, "$name: the question is nobody else's";
    is in_short(Keepalive::Client::get($plain, '/a?b', headers => ['Host: app.example.com'])), '400', "$name: two hosts";
    my $redirect = Keepalive::Client::get($plain, '/a?b');
    is in_short($redirect), '301 https://localhost/a?b', "$name: plain HTTP";
    is -s "$seen.connections", 1, "$name: all questions went over one connection";

    # A product that fails, and one that is down.
    open my $broken, '>', "$seen.broken" or die $!;
    site_asked();
    is ask('/a', @html, @alice)->{status}, 500, "$name: it fails: nobody is allowed";
    is ask('/public/a', @html)->{status}, 500, "$name: not to what is public either";
    unlink "$seen.broken";
    is site_asked(), 0, "$name: the site got nothing";
    unlike $nginx->error_log, qr/\[(?:warn|alert|crit)\]/, "$name: the log has no warning";
}

sub finish {
    my ($nginx, $name, $cookie) = @_;
    kill KILL => $servers[-1];
    waitpid pop @servers, 0;
    site_asked();
    is ask('/a', header("Cookie: $cookie=alice"))->{status}, 500, "$name: it is down: nobody is allowed";
    is site_asked(), 0, "$name: the site got nothing";
    $nginx->stop;
}

{
    my $nginx = example('authelia', 9091, start_server(\&authelia));
    expect_authorisation($nginx, 'authelia', cookie => 'authelia_session', question => '/authelia', forbidden => 1, public => 1,
        names => [qw(Remote-User Remote-Groups Remote-Name Remote-Email)], uri => 'x-forwarded-uri: /a?b=1&c=2',
        login => '302 https://auth.example.com/?rd=https%3A%2F%2Fapp.example.com%2Fa%3Fb%3D1%26c%3D2&rm=GET', api => '/api/a',
        api_headers => [header('Accept: application/json')]);
    is ask('/a', header('Accept: text/html'), '-d', 'x')->{status}, 303, 'authelia: a POST gets 303';
    is ask('/a', header('Accept: text/html', 'X-Requested-With: XMLHttpRequest'))->{status}, 401, 'authelia: a script gets 401';
    my $answer = ask('/a', header('Authorization: Basic d3Jvbmc6'));
    is "$answer->{status} $answer->{headers}{'www-authenticate'}", '401 Basic realm="Authorization Required"', 'authelia: Basic, wrong';
    is ask('/a', header('Authorization: Basic Ym9iOmI='))->{status}, 200, 'authelia: Basic';
    is at_site(qw(Remote-User Remote-Email)), 'bob bob@example.com', 'authelia: as bob';
    is ask('//auth.example.com/')->{body}, 'portal', 'authelia: the portal';
    finish($nginx, 'authelia', 'authelia_session');
}
{
    my $nginx = example('authentik', 9000, start_server(\&authentik));
    expect_authorisation($nginx, 'authentik', cookie => 'authentik_proxy', question => '/authentik', public => 1,
        names => [qw(X-authentik-username X-authentik-groups X-authentik-email X-authentik-uid X-authentik-jwt X-authentik-meta-app)],
        uri => 'x-original-url: https://app.example.com/a?b=1&c=2', api => '/api/a',
        login => '302 /outpost.goauthentik.io/start?rd=https://app.example.com/a?b=1&c=2');
    my @cookies = values_of('Set-Cookie', ask('/a'));
    is_deeply \@cookies, ['authentik_proxy=new; Path=/; HttpOnly'], 'authentik: the redirect has the cookie';
    is_deeply [values_of('Set-Cookie', ask('/a', header('Cookie: authentik_proxy=alice; x=extend')))],
        ['authentik_proxy=alice; Max-Age=60; HttpOnly'], 'authentik: a session that is extended';
    is in_short(ask('/outpost.goauthentik.io/start?rd=x')), '302 https://authentik.example.com/application/o/authorize/', 'authentik: the login';
    is ask('/outpost.goauthentik.io/sign_out')->{body}, 'bye', 'authentik: the logout';
    questions();
    ask('/outpost.goauthentik.io/start', header('X-Forwarded-Host: spoofed', 'X-Original-URL: spoofed', 'X-Forwarded-For: spoofed'));
    unlike join("\n", questions()), qr/spoofed/, 'authentik: nor does the login get claims of the client';
    finish($nginx, 'authentik', 'authentik_proxy');
}
{
    my $nginx = example('oauth2-proxy', 4180, start_server(\&oauth2_proxy));
    expect_authorisation($nginx, 'oauth2-proxy', cookie => '_oauth2_proxy_0', question => '/oauth2-proxy', forbidden => 1, public => 1,
        names => [qw(X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups X-Auth-Request-Access-Token)],
        uri => 'x-forwarded-uri: /a?b=1&c=2', api => '/api/a',
        login => '302 https://idp.example.com/?state=nonce%3A%2Fa%3Fb%3D1%26c%3D2');
    is_deeply [sort(values_of('Set-Cookie', ask('/a')))], ['_oauth2_proxy=; Path=/; Max-Age=0', '_oauth2_proxy_csrf=nonce; Path=/; HttpOnly'],
        'oauth2-proxy: the redirect has its cookie, and that of the denial';
    is_deeply [values_of('Set-Cookie', ask('/a', header('Cookie: _oauth2_proxy_0=alice; x=extend')))], ['_oauth2_proxy_0=alice; Path=/; HttpOnly',
        '_oauth2_proxy_1=more; Path=/; Expires=Thu, 01 Jan 2037 00:00:00 GMT; HttpOnly'], 'oauth2-proxy: both parts of a session that is extended';
    for my $evil ('/a?rd=https://evil.example/', '/a&rd=https://evil.example/', '//evil.example/', '/\evil.example/') {
        unlike in_short(ask($evil)), qr/state=nonce%3A(?:https|%2F%2F|%2F%5C)|[?&]rd=/, "oauth2-proxy: $evil leads nowhere else";
    }
    is ask('/oauth2-proxy-login?rd=https://evil.example/')->{status}, 404, 'oauth2-proxy: the login is internal';
    is in_short(ask('/oauth2/sign_out')), '302 /', 'oauth2-proxy: the logout';
    questions();
    ask('/oauth2/start', header('X-Forwarded-Host: spoofed', 'X-Forwarded-Uri: spoofed', 'X-Auth-Request-Redirect: spoofed'));
    unlike join("\n", questions()), qr/spoofed/, 'oauth2-proxy: nor does the login get claims of the client';
    finish($nginx, 'oauth2-proxy', '_oauth2_proxy_0');
}
{
    my $nginx = example('vouch', 9090, start_server(\&vouch));
    expect_authorisation($nginx, 'vouch', cookie => 'VouchCookie', question => '/vouch', names => [qw(X-Vouch-User X-Vouch-Success X-Vouch-IdP-IdToken)],
        uri => 'GET /validate ', api => '/api/a', login => '302 https://vouch.example.com/login?url=https://app.example.com/a?b=1&c=2');
    is_deeply [values_of('Set-Cookie', ask('/a', header('Cookie: VouchCookie=eve')))], ['VouchCookie=; Domain=example.com; Max-Age=0'],
        'vouch: the redirect clears the cookie';
    is in_short(ask('//vouch.example.com/login?url=https://app.example.com/')), '302 https://idp.example.com/', 'vouch: the login';
    finish($nginx, 'vouch', 'VouchCookie');
}

done_testing;
