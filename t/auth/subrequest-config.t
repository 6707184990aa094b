# The directives of auth_subrequest: what is rejected, with file and line; what is accepted and where; how a list of values
# is inherited.
#
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $nginx = Keepalive::Nginx->new(http => '');

sub verdict { $nginx->verdict(@_) }

sub location { "server {\nlocation / {\n" . join('', map { "$_\n" } @_) . "}\n}\n" }

# Each case: the expected message, and the invalid line after the lines before it.
my %allowed = (auth_subrequest => 'it must be "off" or a path that begins with "/", without variables',
    auth_subrequest_error => 'it must be "500", "503", "pass" or "allow"',
    auth_subrequest_pass_status => 'it must be a status from 300 to 599, except 499');
sub value {
    my ($name, $word) = @_;
    return join ", ", qq(invalid value "$word" in "$name" directive), $allowed{$name} // ();
}
sub header {
    my ($name, $word) = @_;
    my $is_name = $word =~ /^[\w!#%&'*+.^`|~-]+$/a;
    return qq(invalid header name "$word" in "$name" directive, )
        . ($is_name ? 'nginx itself sets this header' : "it must have letters, digits and any of !#%&'*+-.^_`|~ only");
}
sub repeated { my ($name, $word) = @_; return qq(duplicate value "$word" in "$name" directive) }
my @one = qw(auth_subrequest auth_subrequest_pass_body auth_subrequest_timeout auth_subrequest_error auth_subrequest_body
    auth_subrequest_pass_cookies);
my @lists = qw(auth_subrequest_pass_status auth_subrequest_pass_header auth_subrequest_copy_header);
my $sizes = '(?:auth_subrequest_body|auth_subrequest_pass_body|auth_subrequest_timeout)';
my @framing = qw(Host Content-Length Transfer-Encoding Connection Upgrade Expect TE Trailer Keep-Alive);
my %good = (auth_subrequest => '/a', auth_subrequest_pass_body => '1k', auth_subrequest_timeout => '1s',
    auth_subrequest_pass_cookies => 'on', auth_subrequest_error => '503', auth_subrequest_body => '1k', auth_subrequest_set => '$a b',
    auth_subrequest_pass_status => '401', auth_subrequest_pass_header => 'X-A', auth_subrequest_copy_header => 'X-A');

my @refused = (
    (map { [qq(invalid number of arguments in "$_" directive), "$_;"] } sort keys %good),
    (map { [qq(invalid number of arguments in "$_" directive), "$_ $good{$_} $good{$_};"] } @one),
    (map { [qq(invalid number of arguments in "auth_subrequest_set" directive), "auth_subrequest_set $_;"] } '$a',
        '$a b c'),
    (map { [qq("$_" directive is duplicate), "$_ $good{$_};", "$_ $good{$_};"] } @one),
    ['"auth_subrequest" directive is duplicate', 'auth_subrequest off;', 'auth_subrequest /a;'],
    ['"auth_subrequest" directive is duplicate', 'auth_subrequest /a;', 'auth_subrequest off;'],
    (map { [value('auth_subrequest', $_), qq(auth_subrequest "$_";)] }
        '', 'on', 'OFF', 'a', 'auth', '@named', '?a', 'http://127.0.0.1/', '$uri', '/$uri', '/a?b=$c', ' /a'),
    (map { [value('auth_subrequest_error', $_), qq(auth_subrequest_error "$_";)] }
        '', '0', '200', '401', '404', '500x', '501', '502', '504', '0500', 'deny', 'off', 'Allow', 'allow '),
    (map { [value('auth_subrequest_pass_status', $_), qq(auth_subrequest_pass_status "$_";)] }
        '', '0', '1', '99', '100', '199', '200', '204', '299', '499', '600', '999', '4010', '-401', '+401', '401.',
            '4xx', 'x', '0x191',
        '18446744073709552017', '401 403', ' 401'),
    (map { [value('auth_subrequest_pass_cookies', $_) . ', it must be "on" or "off"', qq(auth_subrequest_pass_cookies "$_";)] }
        '', '1', 'yes', 'on '),
    [value('auth_subrequest_pass_status', 'x'), 'auth_subrequest_pass_status 401 403 x 404;'],
    [repeated('auth_subrequest_pass_status', 401), 'auth_subrequest_pass_status 401 403 401;'],
    [repeated('auth_subrequest_pass_status', 401), 'auth_subrequest_pass_status 401;',
        'auth_subrequest_pass_status 403 401;'],
    (map {
        my $name = $_;
        ((map { [header($name, $_), qq($name X-A "$_";)] }
            '', 'X A', 'X:A', 'X-A:', ' X', "X\t", 'X(A)', 'X/A', 'Ü', '[X]', '{X}', 'X;A', 'X,A'),
         (map { [header($name, $_), "$name $_;"] } @framing, map { lc, uc } @framing),
         [repeated($name, 'X-A'), "$name X-A X-B X-A;"], [repeated($name, 'x-a'), "$name X-A x-a;"],
         [repeated($name, 'X-B'), "$name X-A X-B;", "$name X-C X-B;"]);
    } @lists[1, 2]),
    # In a request, `_` and `-` may mean the same header.
    [repeated('auth_subrequest_copy_header', 'X_A'), 'auth_subrequest_copy_header X-A X_A;'],
    (map { [header('auth_subrequest_copy_header', $_), "auth_subrequest_copy_header $_;"] } 'Content_Length',
        'transfer_encoding'),
    (map { [qq(invalid variable name "$_"), qq(auth_subrequest_set "$_" value;)] } 'user', '', '$'),
    ['the duplicate "uri" variable', 'auth_subrequest_set $uri value;'],
    ['unknown "nobody_sets_this" variable', 'auth_subrequest_set $a $nobody_sets_this;'],
);
for my $case (@refused) {
    my ($says, @lines) = @$case;
    my ($accepted, $said) = verdict(location(@lines), 'emerg');
    ok !$accepted, "refused: @lines";
    my $bad = $lines[-1];
    # An unknown variable is found when all has been read.
    like $said, $says =~ /^unknown/ ? qr/^\Q$says\E/ : qr/^\Q$says\E in "\Q$bad\E"$/, "with its message: @lines";
}

# nginx's own reading of sizes and times.
for my $name (qw(auth_subrequest_body auth_subrequest_pass_body auth_subrequest_timeout)) {
    for my $word ('x', '-1', '1x', '1.5k', 'off', '99999999999999999999', '') {
        my ($accepted, $said) = verdict(location(qq($name "$word";)), 'emerg');
        my $allowed = $name =~ /timeout/ ? 'a time, such as "60s"' : 'a size, such as "64k"';
        is_deeply [$accepted, $said], ['', qq("$name" directive invalid value, it must be $allowed in "$name "$word";")],
            qq(refused: $name "$word");
    }
}

# Not in `if`, not outside of http.
for my $name (sort keys %good) {
    my $line = "$name $good{$name};";
    my $place = qq("$name" directive is not allowed here in "$line");
    for my $http ("server {\nlocation / {\nif (\$arg_a) {\n$line\n}\n}\n}\n", "server {\nif (\$arg_a) {\n$line\n}\n}\n",
        "upstream u {\nserver 127.0.0.1:1;\n$line\n}\n", "server {\nlocation / {\nlimit_except GET {\n$line\n}\n}\n}\n") {
        is_deeply [verdict($http, 'emerg')], ['', $place], 'the wrong place: ' . $http =~ s{\n}{ }gr;
    }
    $nginx->configure(main => "\n$line\n", http => '');
    my ($accepted, $said) = $nginx->test;
    like $said, qr/"$name" directive is not allowed here/, "the wrong place: $line";
    $nginx->configure(main => '');
}

# Accepted, without a word, at each level.
my @accepted = (
    (map { "auth_subrequest $_;" } '/', '/auth', '/auth?a=b&c', '"/with space"', '/auth/deep.html', 'off'),
    (map { "auth_subrequest_error $_;" } 500, 503, 'pass', 'allow'),
    (map { "auth_subrequest_pass_cookies $_;" } 'on', 'off'),
    (map { "auth_subrequest_timeout $_;" } 0, 1, '1ms', '1s', '1m30s', '1h'),
    (map { my $name = $_; map { "$name $_;" } 0, 1, '1k', '64K',
        '1m' } qw(auth_subrequest_body auth_subrequest_pass_body)),
    (map { "auth_subrequest_pass_status $_;" } 300, 302, '401 403', 498, 500, 599, '302 303 307 401 403 429 503'),
    'auth_subrequest_pass_status ' . join(' ', grep { $_ != 499 } 300 .. 599) . ';',
    (map { my $name = $_; map { "$name $_;" } 'X-A', 'x-a X-B', 'X_A', 'Cookie', "X!#%&'*+.^`|~9" =~ s/([;{}])//gr }
        qw(auth_subrequest_pass_header auth_subrequest_copy_header)),
    'auth_subrequest_copy_header Authorization Cookie User-Agent X-Forwarded-For Accept Range Content-Type;',
    'auth_subrequest_set $a $upstream_http_x_user;',
        'auth_subrequest_set $a "$upstream_status and $upstream_http_x_user";',
    'auth_subrequest_set $args $upstream_http_x_args;',
        'auth_subrequest_set $a $auth_subrequest_status$auth_subrequest_time;',
);
for my $line (@accepted) {
    # The location that answers.
    my $answers = $line =~ m{^auth_subrequest "?(/[^?";]*)} ? qq(location = "$1" { internal; proxy_pass http://127.0.0.1:1; }) : '';
    for my $http ("$line\nserver { $answers }\n", "server {\n$line\nlocation / { }\n$answers\n}\n", "server {\n$answers\nlocation / {\n$line\n}\n}\n",
        "server {\n$answers\nlocation / {\nlocation /a/b {\n$line\n}\n}\n}\n") {
        is_deeply [verdict($http, '(?:warn|emerg)')], [1, ''], 'accepted: ' . substr $http =~ s/\n/ /gr, 0, 100;
    }
}
my $all = join '', map { "$_ $good{$_};\n" } sort keys %good;
my $site = "$all server {\nlocation = /a { internal; }\n$all location / {\n$all location /a {\n$all}\n}\n}\n";
is_deeply [verdict($site, '(?:warn|emerg)')], [1, ''],
    'all at all levels';

# Beside auth_request: both ask, one after the other, and both must agree.
SKIP: {
    skip 'nginx has no auth_request', 6 unless has_feature('with-http_auth_request_module');
    my $site = Keepalive::Auth->new(locations => <<'END')->start;
    location /both { auth_request /first; auth_subrequest /auth; auth_request_set $a $upstream_http_x_user;
        auth_subrequest_set $b $upstream_http_x_user; add_header X-Users "$a $b" always; proxy_pass http://app; }
    location = /first { internal; proxy_pass http://auth/?$http_x_first; proxy_set_header Connection ""; }
END
    my $ask = sub { $site->asked; $site->get('/both', $_[1], headers => { 'X-First' => $_[0] }) };
    my $answer = $ask->('status=204&header=X-User:one', 'status=204&header=X-User:two');
    is "$answer->{status} $answer->{headers}{'x-users'}", '200 one two', 'both allow';
    is $site->asked, 'auth 2, app 1', 'both have asked';
    is $ask->('status=204', 'status=403')->{status}, 403, 'the second one denies';
    is $site->asked, 'auth 2, app 0', 'both have asked';
    is $ask->('status=401', 'status=204')->{status}, 401, 'the first one denies';
    is $site->asked, 'auth 1, app 0', 'and spares the second question';
    $site->stop;
}

done_testing;
