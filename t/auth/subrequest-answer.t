# Which location answers an auth subrequest. nginx authorises no subrequests, so a location that answered its own question would let
# everybody in: nginx -t refuses what is certain, warns of what is doubtful, and no request is allowed that way.
#
# faults: F20.10 "and not the application" "in http, and a server that redirects"
# about: configuration

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

my $nginx = Keepalive::Nginx->new(http => '');
my $proxy = 'proxy_pass http://127.0.0.1:1;';

# What nginx -t says about the inside of a server: '' or the messages, each with the text of its line.
sub says {
    my ($server, $http) = @_;
    my ($accepted, $said) = $nginx->verdict(($http // '') . "\nserver {\n$server\n}\n", 'warn|emerg');
    return ($accepted ? '' : 'refused: ') . $said;
}

sub named { my ($question, $text, $line) = @_; return qq("auth_subrequest $question" $text in ") . ($line // "auth_subrequest $question;") . '"' }
my $nobody = 'is answered by no location';
my $itself = sub { qq($nobody but the one that asks, "$_[0]") };
my $same = sub { qq(is answered by location "$_[0]", which asks the same: what clients request there is refused) };
my $public = sub { qq(is answered by location "$_[0]", which is not internal: clients can request it) };

my $auth = "location = /auth { internal; $proxy }";
my $ask = "auth_subrequest /auth;";

# Refused: nobody else can answer.
for my $case (
    ['the location itself', "location / {\n$ask\n$proxy\n}", '/'],
    ['the location itself, with files', "location / {\n$ask\n}", '/'],
    ['the location itself, with arguments', "location / {\nauth_subrequest /auth?a=b;\n$proxy\n}", '/', '/auth?a=b'],
    ['inherited from the server', "$ask\nlocation / { $proxy }", '/'],
    ['a prefix', "location /a { $proxy }\nlocation /au {\n$ask\n$proxy\n}", '/au'],
    ['the longest prefix', "location / { auth_subrequest off; $proxy }\nlocation /aut {\n$ask\n$proxy\n}", '/aut'],
    ['its own exact location', "location = /auth {\n$ask\n$proxy\n}", '/auth'],
    ['location = /', "location = / {\nauth_subrequest /;\n$proxy\n}", '/', '/'],
    ['a nested location', "location /a { location /au {\n$ask\n$proxy\n} }", '/au'],
    ['a regular expression', "location ~ ^/a {\n$ask\n$proxy\n}\n$auth" =~ s/= \/auth/\/auth/r, '^/a'],
    ['before a regular expression', "location ^~ /a {\n$ask\n$proxy\n}\nlocation ~ ^/auth { internal; $proxy }", '/a'],
    ['an exact location for another path', "location = /auths { internal; $proxy }\nlocation / {\n$ask\n$proxy\n}", '/'],
    ['an exact location under it', "location / {\n$ask\n$proxy\nlocation = /au { internal; auth_subrequest off; $proxy }\n}", '/'],
    ['allow and deny, which do not apply to the question', "location / {\n$ask\nallow 127.0.0.1;\ndeny all;\n$proxy\n}", '/'],
) {
    my ($title, $server, $name, $question) = @$case;
    $question //= '/auth';
    is says($server), 'refused: ' . named($question, $itself->($name)), "refused: $title";
}
is says("$ask\nroot /nowhere;"), 'refused: ' . named('/auth', $nobody), 'refused: a server without locations';

# Accepted without a word.
for my $case (
    ['as documented', "$ask\n$auth\nlocation / { $proxy }"],
    ['in the location', "$auth\nlocation / { $ask $proxy }"],
    ['a prefix that is internal', "location /auth { internal; $proxy }\n$ask\nlocation / { $proxy }"],
    ['a nested location', "location / { $ask $proxy $auth }"],
    ['a regular expression', "location / { $ask $proxy }\nlocation ~ ^/auth\$ { internal; $proxy }"],
    ['an exact location with the path and a slash, to which nginx redirects', "location / { $ask $proxy }\nlocation = /auth/ { internal; $proxy }"],
    ['a location with the path and a slash, to which nginx redirects', "location / { $ask $proxy }\nlocation /auth/ { internal; $proxy }"],
    ['a server that answers nothing itself', "$ask\nreturn 301 https://\$host\$request_uri;"],
    ['a location that answers nothing itself', "$ask\nlocation / { return 301 https://\$host\$request_uri; }"],
    ['a server that rewrites the question', "rewrite ^/auth\$ /inner last;\nlocation / { $ask $proxy }\nlocation = /inner { internal; $proxy }"],
    ['a location that rewrites the question', "location / { $ask rewrite ^/auth\$ /inner last; $proxy }\nlocation = /inner { internal; $proxy }"],
    ['not internal, but forbidden', "$ask\nlocation = /auth { allow 127.0.0.2; deny all; $proxy }\nlocation / { $proxy }"],
    ['not internal, but with conditions', "$ask\nlocation = /auth { if (\$request_uri ~ ^/auth) { return 404; } $proxy }\nlocation / { $proxy }"],
    ['off', "auth_subrequest off;\nlocation / { $proxy }"],
    ['either of two', "satisfy any;\nauth_request /other;\n$ask\n$auth\nlocation = /other { internal; $proxy }\nlocation / { $proxy }"],
    # In nginx's order of names, a slash comes before all other characters.
    (map { my $more = $_; map { ["beside /auth$more", "$_\nlocation /auth$more { $proxy }\nlocation = /auth$more/b { $proxy }"] }
        "location / { auth_subrequest /auth/a; $proxy }\nlocation = /auth/a { internal; $proxy }",
        "location /auth/ { auth_subrequest /auth/a; $proxy }\nlocation /auth/a { internal; $proxy }" } ('-a', '.js', '+a', '!', '%', ',')),
    ['a server whose requests all have a location', "$ask\nlocation / { auth_subrequest off; $proxy }"],
) {
    my ($title, $server) = @$case;
    is says($server), '', "accepted: $title";
    is says('listen 127.0.0.1:1;', "server {\nlisten 127.0.0.1:2;\n$server\n}"), '', "accepted, beside another server: $title";
}
is says("$auth\nlocation / { $proxy }\n}\nserver { listen 127.0.0.1:1; return 301 https://x;", $ask), '', 'accepted: in http, and a server that redirects';
is says("listen 127.0.0.1:1;\nlocation / { $proxy }\nlocation \@a { $proxy }\n}\nserver { listen 127.0.0.1:2; $ask $auth", ''), '', 'accepted: only one server asks';

# A warning: it may be meant, or others need it.
for my $case (
    ['clients can request it', "$ask\nlocation = /auth { auth_subrequest off; $proxy }\nlocation / { $proxy }", $public->('/auth')],
    ['clients can request it, once for all locations', "$ask\nlocation = /auth { auth_subrequest off; $proxy }\n" .
        join("\n", map { "location /$_ { $proxy }" } 'a' .. 'e'), $public->('/auth')],
    ['the application answers', "location / { $proxy }\nlocation /admin {\n$ask\n$proxy\n}", $public->('/')],
    ['it asks the same', "$ask\nlocation = /auth { $proxy }\nlocation / { $proxy }", $same->('/auth')],
    ['it asks the same, with files elsewhere', "$ask\nlocation = /auth { $proxy }", $same->('/auth')],
    ['an internal location in it asks', "location / {\n$ask\n$proxy\nlocation = /au { internal; $proxy }\n}", $same->('/')],
    ['another location asks', "$ask\nlocation / { $proxy }\nlocation /api { $proxy }", $same->('/')],
    ['no location, but the server does not ask', "location /b {\n$ask\n$proxy\n}", $nobody],
) {
    my ($title, $server, $text) = @$case;
    is says($server), named('/auth', $text), "a warning: $title";
}
is says("location / { $proxy }", $ask), named('/auth', $same->('/')), 'a warning: written in http';
is says('', $ask), named('/auth', $nobody), 'a warning: written in http, and a server without locations';
is says("location = /auth {\ninternal;\n$ask\n$proxy\n}\nlocation / { $proxy }"), named('/auth', $same->('/auth')), 'a warning: an internal location asks itself';

SKIP: {
    skip 'nginx has no auth_request', 5 unless has_feature('with-http_auth_request_module');
    my $both = sub { qq(both "auth_subrequest" and "auth_request" are in effect in location "$_[0]": its requests are authorised twice in "$ask") };
    is says("$auth\nlocation /a {\n$ask\nauth_request /auth;\n$proxy\n}"), $both->('/a'), 'with auth_request: a warning';
    is says("$auth\nauth_request /auth;\n$ask\nlocation /a { auth_request off; }\nlocation /b { $proxy }\nlocation /c { $proxy }"), $both->(''),
        'with auth_request in the server: one warning';
    is says("$auth\nauth_request /auth;\nlocation /a { auth_request off; $ask $proxy }"), '', 'with auth_request off: no warning';
    is says("$auth\nlocation /b { auth_request /auth; $proxy }\nlocation /a { $ask $proxy }"), '', 'with auth_request elsewhere: no warning';
    is says("$auth\n$ask\nlocation /b { auth_request /auth; auth_subrequest off; $proxy }"), '', 'with auth_subrequest off: no warning';
}

# At run time nobody is allowed by a location that answers its own question. These configurations are accepted, as it depends on the
# request, or on another location.
my $app = Keepalive::Backend->start;
my $port = free_port();
my $to_app = 'proxy_pass http://app;';
my $site = sub {
    my ($server, %more) = @_;
    return Keepalive::Nginx->new(%more, http => <<"END")->start;
$proxy_keepalive
upstream app { server @{[ $app->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    root /nowhere;
    $server
}
END
};
for my $case (
    # The inside of the server, then requests and their statuses.
    ["$ask location / { $to_app } location /api { $to_app }", '/' => 500, '/x' => 500, '/auth' => 500, '/api' => 200],
    ["$ask location / { set \$a b; $to_app }", '/' => 500, '/x?a' => 500],
    ["set \$a b; location / { $ask auth_subrequest_error allow; $to_app }", '/' => 500],
    ["set \$a b; location / { $ask auth_subrequest_error 503; auth_subrequest_pass_status 401 404; $to_app }", '/' => 503],
    ["set \$a b; location / { $ask error_page 404 500 = /page; $to_app } location = /page { return 200 page; }", '/' => 200, '/?page' => 'page'],
    ["set \$a b; location / { $ask if (\$arg_a) { $to_app } $to_app }", '/' => 500, '/?a=1' => 500],
    ["set \$a b; location / { $ask limit_except POST { $to_app } $to_app }", '/' => 500],
    ["set \$a b; location / { $ask try_files /nothing \@app; } location \@app { $to_app }", '/' => 500],
    ["location / { try_files /nothing \@app; } location \@app { $ask $to_app }", '/' => 500],
    ["location / { rewrite ^/b/(.*) /a/\$1 last; rewrite ^/auth\$ /a/auth last; $to_app } location /a/ { $ask $to_app }", '/b/x' => 500, '/x' => 200],
    ["rewrite ^/auth\$ /a/auth; location /a/ { $ask $to_app }", '/a/x' => 500],
    ["error_page 403 = /a/403; location = /b { deny all; } location = /auth { internal; error_page 403 = /a/b; return 403; } location /a/ { $ask $to_app }", '/a/x' => 403],
    ["location ~ ^/(a|auth)\$ { set \$a b; $ask $to_app }", '/a' => 500],
    ["auth_subrequest /in/auth; location / { auth_subrequest off; try_files /nothing /in\$uri; } location /in/ { internal; $to_app }", '/x' => 500],
    ["location / { $to_app } location /in-a { $to_app } location /in-b { $to_app } location /in/ { auth_subrequest /in/auth; set \$a b; $to_app }",
        '/in/x' => 500, '/in-a' => 200],
    # And those that are meant to work.
    ["location / { $ask rewrite ^/auth\$ /inner last; $to_app } location = /inner { internal; $to_app }", '/' => 200],
    ["rewrite ^/auth\$ /inner last; location / { $ask $to_app } location = /inner { internal; $to_app }", '/' => 200],
    ["$ask location = /auth { internal; try_files /nothing /real; } location = /real { $to_app } location / { $to_app }", '/' => 200],
    ["$ask location = /auth { internal; $to_app } location / { try_files /nothing \@app; } location \@app { $to_app }", '/' => 200, '/auth' => 404],
    ["$ask location = /auth { internal; return 204; } location / { $to_app } location = /old { rewrite ^ /new last; }", '/' => 200, '/old' => 200],
    ["$ask location = /auth { internal; return 403; } location / { $to_app }", '/' => 403],
    # The answer of a server counts, also if it names another location.
    ["location = /auth { internal; proxy_pass http://app/?header=X-Accel-Redirect:/a; } location / { $ask $to_app }", '/x' => 200],
) {
    my ($server, @requests) = @$case;
    my $running = $site->($server);
    while (my ($path, $status) = splice @requests, 0, 2) {
        if ($status eq 'page') {
            is get($port, $path)->{body}, 'page', "$path: the error page, and not the application: $server";
            next;
        }
        is get($port, $path)->{status}, $status, "$path: $status with $server";
    }
    my $log = $running->error_log;
    my $is_itself = () = $log =~ /auth subrequest "[^"]+" is answered by the location that asks, so it is refused/g;
    ok !!$is_itself == !!(grep { $_ eq '500' || $_ eq '503' || $_ eq 'page' } @$case), 'the error log says why, where that is so';
    unlike $log, qr/auth subrequest unexpected status/, 'and nothing else' if $is_itself;
    $running->stop;
}

done_testing;
