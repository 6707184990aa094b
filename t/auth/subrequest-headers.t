# auth_subrequest_copy_header: only the authorisation server can set these request headers, never the client.
#
# faults: F20.9 "auth_subrequest_copy_header" "is removed, others are not"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Setup;

needs_module();

my ($inner, $http2_port) = map { free_port() } 1 .. 2;
my $http2 = http2_listen($http2_port);
my %other = map { $_ => Keepalive::Backend->start(protocol => $_) } qw(fastcgi uwsgi scgi);
my $seen = work_dir() . '/seen.log';
my $page = work_dir() . '/page.html';
open my $out, '>', $page or die $!;
print $out '<!--# include virtual="/part" -->';
close $out;

# A gRPC server is another server of this nginx, which passes the requests on.
my $h2_inner = version_at_least('1.25.1') ? "listen 127.0.0.1:$inner; http2 on;" : "listen 127.0.0.1:$inner http2;";
my $grpc = has_feature('with-http_v2_module') ? 'location /to-grpc { grpc_pass grpc://127.0.0.1:' . "$inner; }" : '';
my $params = sub { my ($n) = @_; "${n}_param REQUEST_METHOD \$request_method; ${n}_param REQUEST_URI /;"
    . " ${n}_param CONTENT_LENGTH \$content_length; ${n}_pass " . $other{$n}->address . ';' };

my $site = Keepalive::Auth->new(http => <<"END", locations => <<"END2")->start;
log_format seen '\$uri|\$http_x_user|\$http_x_groups|\$http_cookie|\$http_user_agent|\$http_authorization|\$remote_user'
    '|\$http_x_forwarded_for|\$cookie_name';
@{[ $grpc && "server { $h2_inner location / { proxy_pass http://app; } }" ]}
END
    @{[ $http2 // '' ]}
    access_log $seen seen;
    auth_subrequest /auth;
    auth_subrequest_copy_header X-User X-Groups;
    add_header X-Seen "<\$http_x_user>" always;
    location / { proxy_pass http://app; }
    location /lax { proxy_pass http://app; }
    location /any { satisfy any; allow 127.0.0.1; deny all; proxy_pass http://app; }
    location /open { auth_subrequest_error allow; proxy_pass http://app; }
    location /off { auth_subrequest off; proxy_pass http://app; }
    location /own-list { auth_subrequest_copy_header X-Other; proxy_pass http://app; }
    location /named { error_page 404 = \@named; proxy_intercept_errors on; proxy_pass http://app; }
    location \@named { rewrite ^ /again? break; proxy_pass http://app; }
    location /try { try_files /none /lax; }
    location /page { ssi on; default_type text/html; alias $page; }
    location /part { proxy_pass http://app/?; }
    location /set { proxy_set_header X-User "<\$http_x_user>"; proxy_pass http://app; }
    location /known {
        auth_subrequest_copy_header Authorization Cookie User-Agent X-Forwarded-For Accept Referer;
        proxy_set_header X-Forwarded "\$proxy_add_x_forwarded_for";
        proxy_set_header Connection "";
        proxy_pass http://app;
    }
    location /user {
        set \$before \$remote_user;
        auth_subrequest_copy_header Authorization;
        proxy_set_header X-Name "\$remote_user";
        proxy_set_header Connection "";
        proxy_pass http://app;
    }
    location /to-fastcgi { @{[ $params->('fastcgi') ]} }
    location /to-uwsgi { @{[ $params->('uwsgi') ]} }
    location /to-scgi { @{[ $params->('scgi') ]} }
    $grpc
END2

# The values of these headers that the site has got, in any spelling.
sub got {
    my ($answer, @names) = @_;
    my $request = $site->{app}->last_request;
    return join '; ', "$answer->{status}",
        map { my $n = $_; $n =~ s/[-_]/[-_]/g; map { /^($n): (.*)/i ? $2 : () } @{ $request->{headers} } } @names;
}

sub logged { open my $in, '<', $seen or return ''; my @lines = <$in>; chomp @lines; return $lines[-1] }

my @spoofed = ('X-User: root', 'x-user: root', 'X-uSeR: root', 'X-USER: root', 'X-Groups: wheel', 'x-groups: wheel');
my $alice = script(status => 200, header => 'X-User:alice', header => 'X-Groups:staff');

# What the answer says, and nothing else.
for my $spoof ([], [$spoofed[0]], [@spoofed[0 .. 1]], \@spoofed) {
    my $many = @$spoof . ' of the client';
    my $answer = $site->get('/', $alice, headers => $spoof);
    is got($answer, qw(X-User X-Groups)), '200; alice; staff', "$many: those of the answer";
    is $answer->{headers}{'x-seen'}, '<alice>', "$many: nginx's own variable agrees";
    like logged(), qr{^/\|alice\|staff\|}, "$many: and so does the log";
    is got($site->get('/', 'status=204', headers => $spoof), qw(X-User X-Groups)), '200',
        "$many: none without an answer's";
    is $site->get('/', 'status=204', headers => $spoof)->{headers}{'x-seen'}, '<>', "$many: the variable agrees";
    is got($site->get('/', 'header=X-User:', headers => $spoof), qw(X-User X-Groups)) =~ s/; $//r, '200',
        "$many: an empty one";
    is got($site->get('/', 'header=X-User:a&header=x-user:b&header=X-Groups:c,%20d', headers => $spoof),
        qw(X-User X-Groups)),
        '200; a; b; c, d', "$many: several values";
}
my $before = $site->{app}->stats->{requests};
is $site->get('/', 'status=403', headers => \@spoofed)->{headers}{'x-seen'}, '<>', 'a denial: not even the log sees them';
is $site->{app}->stats->{requests}, $before, 'and the site sees nothing';

# The authorisation server sees what the client has sent.
$site->get('/', $alice, headers => ['X-User: root', 'Authorization: Bearer t']);
is_deeply [map { values_of($_, $site->{auth}->last_request) } qw(X-User Authorization)], ['root', 'Bearer t'],
    'the question has them';

# Every way round the question.
for my $case (['/any', 'satisfy any, allowed'], ['/off', 'auth_subrequest off'], ['/open', 'an error that is allowed',
    'status=500'],
    ['/open', 'a closed connection that is allowed', 'fault=close&at=start']) {
    my ($path, $title, $script) = @$case;
    my $answer = $site->get($path, $script // $alice, headers => \@spoofed);
    is got($answer, qw(X-User X-Groups)), '200', "$title: none";
    is $answer->{headers}{'x-seen'}, '<>', "$title: nor by variable";
}
for my $case (['/named?status=404', 'a named location'], ['/try', 'try_files'], ['/page', 'SSI'], ['/set',
    'proxy_set_header']) {
    my ($path, $title) = @$case;
    my $expected = $path eq '/set' ? '200; <alice>; staff' : '200; alice; staff';
    is got($site->get($path, $alice, headers => \@spoofed), qw(X-User X-Groups)), $expected,
        "$title: those of the answer";
    is got($site->get($path, 'status=204', headers => \@spoofed), qw(X-User X-Groups)),
        $expected =~ s/alice|; staff//gr =~ s/; $//r,
        "$title: none without";
}
is got($site->get('/own-list', "$alice&header=X-Other:o", headers => [@spoofed[0, 4], 'X-Other: client']),
    qw(X-User X-Groups X-Other)),
    '200; root; wheel; o', 'a list of the location replaces the one above';

# Headers that nginx parses itself: the sent header and the variable agree.
my @client = ('Authorization: Basic Y2xpZW50Om93bg==', 'Cookie: name=client', 'Cookie: second=1', 'User-Agent: client',
    'X-Forwarded-For: 1.1.1.1', 'Accept: client', 'Referer: client');
my $known = script(header => 'Authorization:Bearer new', header => 'Cookie:name=new', header => 'User-Agent:new',
    header => 'X-Forwarded-For:2.2.2.2', header => 'Accept:new');
my @names = qw(Authorization Cookie User-Agent X-Forwarded-For Accept Referer);
my $answer = $site->get('/known', $known, headers => \@client);
is got($answer, @names, 'X-Forwarded'), '200; Bearer new; name=new; new; 2.2.2.2; new; 2.2.2.2, 127.0.0.1',
    'known headers: replaced';
like logged(), qr{^/known\|.*\|name=new\|new\|Bearer new\|[^|]*\|2\.2\.2\.2\|new$}, 'known headers: the log agrees';
is_deeply [map { values_of($_, $site->{auth}->last_request) } @names], [map { s/^\S+ //r } @client],
    'known headers: the question has the old ones';
is got($site->get('/known', 'status=204', headers => \@client), @names, 'X-Forwarded'), '200; 127.0.0.1',
    'known headers: removed';
like logged(), qr{^/known\|[^|]*\|[^|]*\|-?\|-?\|-?\|[^|]*\|-?\|-?$}, 'known headers: gone from the log';
is got($site->get('/known', $known), @names), '200; Bearer new; name=new; new; 2.2.2.2; new',
    'known headers: set where there were none';

# All other headers, unchanged and in order; also when there are many, before and after the removed ones.
my @many = map { "X-Header-$_: value $_" } 1 .. 60;
for my $at (0, 1, 15, 19, 20, 21, 39, 40, 59, 60) {
    my @sent = @many;
    splice @sent, $at, 0, @spoofed;
    $site->get('/', $alice, headers => \@sent);
    my @got = @{ $site->{app}->last_request->{headers} };
    is join("\n", grep { /^X-Header/ } @got), join("\n", @many), "sixty headers, spoofed at $at: all there, in order";
    is join('; ', sort grep { /^X[-_](?:User|Groups)/i } @got), 'X-Groups: staff; X-User: alice',
        "sixty headers, spoofed at $at: replaced";
}

# With underscores, where they are let through: the same header for many a server. Without, nginx ignores them.
my $lax_port = free_port();
my $lax = Keepalive::Auth->new(http => 'underscores_in_headers on;', locations => <<'END'
    ignore_invalid_headers off;
    auth_subrequest_copy_header X-User X-Class;
    location / { auth_subrequest /auth; proxy_pass http://app; }
    location /off { proxy_pass http://app; }
END
    . "location /to-fastcgi { @{[ $params->('fastcgi') ]} }" . (http2_listen($lax_port) // ''))->start;
for my $path ('/', '/off') {
    for my $name (qw(X_User x_user X_USER X-User x-uSER)) {
        $lax->get($path, 'status=204', headers => ["$name: root", 'X_Other: o', "$name: again"]);
        my @got = @{ $lax->{app}->last_request->{headers} };
        is join('; ', grep { /user/i } @got), '', "underscores, $path: $name is removed";
        is join('; ', grep { /other/i } @got), 'X_Other: o', "underscores, $path: others are not";
    }
}

# All that a server may take for it: whatever the name of a variable cannot have may become an underscore, and nobody knows
# what becomes of bytes that are not ASCII.
my @others = ('XUser', 'X-Use', 'X-User-Id', 'X-Users', 'X[Usher', "Gr\xc3\xb6\xc3\x9fe");
sub passed {
    my ($name, $status) = @_;
    my $record = $other{fastcgi}->control('/last');
    return join ' ', $status, map { my $word = $_; $word . '=' . (() = $record =~ /$word/g) } qw(root other);
}
sub shown { return $_[0] =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger }
for my $name (map({ "X${_}User" } grep { !/[a-z0-9:]/i } map { chr } 0x21 .. 0x7e),
    "X\xa0User", "X-Cla\xdf", "X-U\xc5\xbfer", "\xe2\x80\x8bX-User", "X-User\xff", "\xff", "X\xc3[\xc3User", 'X-User[]', 'X_User[a]b') {
    my $status = $lax->status('/to-fastcgi', '', headers => ["$name: root", map { "$_: other" } @others]);
    is passed($name, $status), '200 root=0 other=6', shown($name) . ' is removed, others are not';
}
SKIP: {
    skip 'no HTTP/2', 4 unless $http2;
    for my $name ('X[User', 'X-User[a]', 'X~User', "X-Cla\xdf") {
        my $status = curl($lax_port, '/to-fastcgi', '-H', "$name: root", '-H', 'X-Users: other')->{status};
        is passed($name, $status), '200 root=0 other=1', 'HTTP/2: ' . shown($name) . ' is removed';
    }
}
$lax->get('/', 'header=X_User:alice', headers => ['X_User: root']);
unlike join('; ', grep { /^X.User/i } @{ $lax->{app}->last_request->{headers} }), qr/root/, 'underscores in the answer';
$lax->stop;

# Other protocols to the server, and from the client.
for my $name (sort keys %other) {
    is $site->status("/to-$name", $alice, headers => \@spoofed), 200, "$name: allowed";
    my $record = $other{$name}->control('/last');
    my @users = $record =~ /HTTP_X_USER[^a-z]*([a-z]+)/g;
    is "@users", 'alice', "$name: the user of the answer, once";
    unlike $record, qr/root|wheel/, "$name: nothing of the client's";
}
is got($site->get('/to-grpc', $alice, headers => \@spoofed), qw(X-User X-Groups)), '200; alice; staff', 'gRPC' if $grpc;
SKIP: {
    skip 'no HTTP/2', 2 unless $http2;
    is got(curl($http2_port, '/', '-H', "X-Auth: $alice", map { ('-H', $_) } @spoofed), qw(X-User X-Groups)),
        '200; alice; staff', 'HTTP/2';
    is got(curl($http2_port, '/', '-H', 'X-Auth: status=204', map { ('-H', $_) } @spoofed), qw(X-User X-Groups)), '200',
        'HTTP/2: none';
}

# One connection, two users: nothing of the first one stays.
my $first = $site->begin('/', $alice, keep_alive => 1);
like $first->receive, qr{^HTTP/1.1 200 .*<alice>}s, 'keep-alive: alice';
my $second = $site->begin('/', 'status=204', keep_alive => 1, over => $first->{socket});
like $second->receive, qr{^HTTP/1.1 200 .*<>}s, 'keep-alive: then nobody';

# nginx keeps the name of the user apart from the header.
my ($spoof, $real) = map { 'Basic ' . $_ } 'c3Bvb2Y6cA==', 'cmVhbDpw';
is got($site->get('/user', script(status => 200, header => "Authorization:$real"), headers => ["Authorization: $spoof"]),
    'X-Name', 'Authorization'), "200; real; $real", '$remote_user is that of the answer';
is got($site->get('/user', 'status=200', headers => ["Authorization: $spoof"]), 'X-Name', 'Authorization'), '200',
    '$remote_user: or there is none';

$site->stop;
done_testing;
