# Modules of others that wrap peers, requests or answers, all in one nginx, loaded before ours and after it: their work is done, and
# connections are used again, by the requests they belong to. Those that are not installed are left out.
#
# faults: F17.5 "one connection" "an address of its own" "denied"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();

# Each module: its files, and what Debian calls it.
my @known = (
    [lua     => 'libnginx-mod-http-lua', 'ndk_http_module.so', 'ngx_http_lua_module.so'],
    [headers => 'libnginx-mod-http-headers-more-filter', 'ngx_http_headers_more_filter_module.so'],
    [js      => 'libnginx-mod-http-js', 'ngx_http_js_module.so'],
    [echo    => 'libnginx-mod-http-echo', 'ngx_http_echo_module.so'],
    [fair    => 'libnginx-mod-http-upstream-fair', 'ngx_http_upstream_fair_module.so'],
);
my (%has, @files);
for my $module (@known) {
    my ($name, $package, @names) = @$module;
    my @paths = has_module_file(@names);
    diag("$package is not here, or not for this nginx") unless @paths;
    $has{$name} = @paths;
    push @files, @paths;
}
plan skip_all => 'nginx has none of the other modules' unless @files;

my ($port, $app, $auth) = map { free_port() } 1 .. 3;
my $dir = work_dir();
open my $script, '>', "$dir/main.js" or die $!;
print $script <<"END";
async function fetched(r) {
    const reply = await ngx.fetch('http://127.0.0.1:$port/plain');
    const text = await reply.text();
    r.return(reply.status, text);
}
async function asked(r) {
    const reply = await r.subrequest('/plain');
    r.return(reply.status, reply.responseText);
}
async function verdict(r) {
    const reply = await r.subrequest('/question');
    r.return(reply.status);
}
function header(r) { r.headersOut['X-Js'] = r.variables.upstream_addr; }
export default { fetched, asked, verdict, header };
END
close $script;

# The locations. All of them share the pools; those with another address to connect from have connections of their own.
my %location = (
    plain => 'proxy_pass http://app;',
    bound => 'proxy_bind 127.0.0.2; proxy_pass http://app;',
    asks  => 'auth_subrequest /question; proxy_pass http://app;',
);
if ($has{lua}) {
    $location{lua} = 'access_by_lua_block { ngx.ctx.user = "me" } proxy_pass http://lua;
        header_filter_by_lua_block { ngx.header["X-Lua"] = ngx.ctx.user } body_filter_by_lua_block { ngx.arg[1] = ngx.arg[1]:upper() }';
    $location{'lua-bound'} = 'proxy_bind 127.0.0.2; proxy_pass http://lua;';
    $location{'lua-asks'} = 'auth_subrequest /question; rewrite_by_lua_block { ngx.req.set_header("X-Lua", 1) } proxy_pass http://lua;';
    $location{'lua-capture'} = 'content_by_lua_block { ngx.print(ngx.location.capture("/plain").body) }';
}
if ($has{headers}) {
    $location{headers} = 'more_set_input_headers "X-In: it"; more_set_headers "X-More: $upstream_addr"; more_clear_headers Server; proxy_pass http://app;';
    $location{'headers-asks'} = 'auth_subrequest /question; more_set_headers -s "403 200" "X-More: always"; proxy_pass http://app;';
}
if ($has{js}) {
    $location{'js-fetch'} = 'js_content main.fetched;';
    $location{'js-subrequest'} = 'js_content main.asked;';
    $location{'js-asks'} = 'auth_subrequest /verdict; js_header_filter main.header; proxy_pass http://app;';
    $location{verdict} = 'internal; js_content main.verdict;';
}
if ($has{echo}) {
    $location{echo} = 'echo_location /plain; echo_location /plain;';
    $location{'echo-asks'} = 'auth_subrequest /question; echo_location_async /plain;';
}
$location{fair} = 'proxy_pass http://fair;' if $has{fair};

my $locations = join '', map { "    location = /$_ { $location{$_} }\n" } sort keys %location;
my $js = $has{js} ? "js_path $dir;\njs_import main.js;" : '';
my $lua = $has{lua} ? "upstream lua { server 0.0.0.1; balancer_by_lua_block { require('ngx.balancer').set_current_peer('127.0.0.1', $app) } keepalive 4; }" : '';
my $fair = $has{fair} ? "upstream fair { server 127.0.0.1:$app; fair; keepalive 4; }" : '';
my $http = <<"END";
$proxy_keepalive
$js
$lua
$fair
upstream app { server 127.0.0.1:$app; keepalive 4; }
upstream auth { server 127.0.0.1:$auth; keepalive 4; }
server { listen 127.0.0.1:$app; location / { return 200 "app \$connection \$connection_requests \$remote_addr\\n"; } }
server {
    listen 127.0.0.1:$auth;
    location / {
        if (\$http_x_user = nobody) { return 403; }
        return 204;
    }
}
server {
    listen 127.0.0.1:$port;
    location = /question { internal; proxy_pass http://auth; }
    location = /status { keepalive_status; }
    location = /stub { stub_status; }
$locations
}
END

# The connections to the application that several requests have used, and the addresses they came from.
sub used {
    my ($path, $requests) = @_;
    my (%connections, %addresses);
    for (1 .. $requests) {
        my $answer = get($port, $path);
        is $answer->{status}, 200, "$path: answered" or next;
        for my $line (split /\n/, $answer->{body}) {
            my (undef, $connection, undef, $address) = split ' ', $line;
            $connections{$connection} = $addresses{$address} = 1;
        }
    }
    return ([keys %connections], [keys %addresses]);
}

my @nobody = (headers => { 'X-User' => 'nobody' });

for my $order ('after', 'before') {
    my @all = $order eq 'after' ? (@files, module_path()) : (module_path(), @files);
    my $main = join '', map { "load_module $_;\n" } @all;
    my $nginx = Keepalive::Nginx->new(module => 0, main => $main, http => $http)->start;
    note "ours is loaded $order the others";

    for my $name (grep { $_ ne 'verdict' } sort keys %location) {
        my ($connections, $addresses) = used("/$name", 4);
        is @$connections, 1, "$name: one connection";
        is "@$addresses", $name =~ /bound/ ? '127.0.0.2' : '127.0.0.1', "$name: an address of its own";
        is get($port, "/$name", @nobody)->{status}, 403, "$name: denied" if $name =~ /asks/;
    }
    my %answer = map { $_ => get($port, "/$_") } keys %location;
    like $answer{lua}{body}, qr/^APP \d+ /, 'Lua: the filter of the body' if $has{lua};
    is $answer{lua}{headers}{'x-lua'}, 'me', 'Lua: the filter of the header' if $has{lua};
    is $answer{headers}{headers}{'x-more'}, "127.0.0.1:$app", 'headers-more: a header with a variable' if $has{headers};
    is $answer{headers}{headers}{server}, undef, 'headers-more: one less' if $has{headers};
    is get($port, '/headers-asks', @nobody)->{headers}{'x-more'}, 'always', 'headers-more: a header of a denial' if $has{headers};
    is $answer{'js-asks'}{headers}{'x-js'}, "127.0.0.1:$app", 'njs: the filter of the header' if $has{js};
    like get($port, '/stub')->{body}, qr/^Active connections/, 'stub_status';
    my $status = get($port, '/status?format=prometheus');
    like $status->{body}, qr/upstream="app"/, 'the status page';

    $nginx->reload;
    is get($port, "/$_")->{status}, 200, "after a reload, $_: answered" for grep { $_ ne 'verdict' } sort keys %location;
    $nginx->stop;
}

done_testing;
