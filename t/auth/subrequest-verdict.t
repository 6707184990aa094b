# The first verdict decides: no error page and no redirect of the authorisation location turns a denial, or a missing answer,
# into a permission. With nginx's own auth_request the last status counts.
#
# faults: F20.6 "an error page lets in who was denied" "nobody is let in without a word" "$name, $mode: 401" "401 by $to, $mode"
# faults: F20.6 "no page in time, $_" "a stale answer of the cache: it decides"
# faults: F20.6 "403, and the next one is down, $mode"

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Setup;

my $stock = has_feature('with-http_auth_request_module');
plan skip_all => 'nginx has no auth_request' unless $stock || is_ours();

my $www = work_dir() . '/www';
mkdir $www;
for my $file (['index.php', 'the index'], ['page.html', 'a page']) {
    open my $out, '>', "$www/$file->[0]" or die $!;
    print $out $file->[1];
}
my $nobody = free_port();
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die $!;
my $two = Keepalive::Backend->start(listen => ['127.0.0.1:0', '127.0.0.1:0']);
my $fastcgi = Keepalive::Backend->start(protocol => 'fastcgi');

# The locations that are asked; what the server does is chosen by each request.
my $server = 'proxy_pass http://auth/?$http_x_auth;';
my $intercept = 'proxy_intercept_errors on;';
my %question = (
    down       => "proxy_pass http://127.0.0.1:$nobody;",
    plain      => $server,
    'slow-redirect' => $server,
    page       => "$intercept error_page 401 403 404 500 /page.html; $server",
    changed    => "$intercept error_page 401 403 404 500 =200 /index.php; $server",
    named      => "$intercept error_page 401 403 404 500 = \@backup; $server",
    proxied    => "$intercept error_page 401 403 404 500 = /to-app; $server",
    recursive  => "$intercept recursive_error_pages on; error_page 401 403 404 500 = /again; $server",
    'lost-page' => "$intercept error_page 401 403 404 500 = /lost; $server",
    'slow-page' => "$intercept error_page 401 403 404 500 = /slow; $server",
    fastcgi    => 'fastcgi_intercept_errors on; error_page 401 403 404 500 =200 /index.php;'
        . ' fastcgi_param QUERY_STRING $http_x_auth; fastcgi_pass ' . $fastcgi->address . ';',
    returned   => 'error_page 403 =200 /index.php; return 403;',
    missing    => 'error_page 404 =200 /index.php; try_files /none =404;',
    refreshed  => 'msie_refresh on; return 302 http://login/;',
    cached     => "proxy_cache decisions; proxy_cache_key \$http_x_auth; proxy_cache_valid 200 401 403 404 1m;"
        . " $intercept error_page 401 403 404 500 =200 /index.php; $server",
    stale      => 'proxy_cache decisions; proxy_cache_key stale; proxy_cache_valid 200 1s;'
        . ' proxy_cache_use_stale error http_500; proxy_pass http://auth/?$http_x_auth;',
    tried      => 'proxy_next_upstream error http_403; proxy_pass http://two/?$http_x_auth;',
    half       => 'proxy_next_upstream error http_403 http_404; proxy_pass http://half/?$http_x_auth;',
    'slow-half' => 'proxy_next_upstream error http_403; proxy_pass http://mute/?$http_x_auth;',
);
sub locations_for {
    my ($directive, %modes) = @_;
    my $text = '';
    for my $name (sort keys %question) {
        $text .= "location = /ask-$name { internal; $question{$name} }\n";
        # What is not waited for on purpose has time enough.
        my $time = !is_ours() ? '' : $name =~ /slow/ ? 'auth_subrequest_timeout 1s;' : 'auth_subrequest_timeout 20s;';
        $text .= "location /$name/$_ { $directive /ask-$name; $time $modes{$_} proxy_pass http://app; }\n"
            for sort keys %modes;
    }
    return $text;
}
my $ours = 'auth_subrequest_pass_status 302 401 403; auth_subrequest_error ';
my $locations = is_ours() ? locations_for('auth_subrequest', 500 => "$ours 500;", allow => "$ours allow;",
    body => "$ours 500; auth_subrequest_pass_body 1k;") : locations_for('auth_request', stock => '');
$locations .= 'location /of-nginx { auth_request /ask-changed; proxy_pass http://app; }
    location /of-nginx-down { auth_request /ask-down; proxy_pass http://app; }' if $stock;

my $old = is_ours() ? 'auth_subrequest /ask-old;' : '';
my $cache = work_dir() . '/cache';
my $site = Keepalive::Auth->new(http => <<"END", locations => <<"END2")->start;
proxy_cache_path $cache keys_zone=decisions:1m;
upstream two { server @{[ $two->address(0) ]}; server @{[ $two->address(1) ]} backup; }
upstream mute { server @{[ $two->address(0) ]} max_fails=0; server 127.0.0.1:@{[ $mute->sockport ]} backup max_fails=0; }
upstream half { server @{[ $two->address(0) ]} max_fails=0; server 127.0.0.1:$nobody backup max_fails=0; }
END
    root $www;
    error_page 502 504 = \@backup;
    $locations
    location /old { $old proxy_pass http://app; }
    location = /ask-old { internal; msie_refresh on; $intercept error_page 302 = \@backup; $server }
    location \@backup { rewrite ^ /backup? break; proxy_pass http://app; }
    location = /to-app { internal; proxy_pass http://app/; }
    location = /again { internal; proxy_intercept_errors on; error_page 404 =200 /page.html; proxy_pass http://app/?status=404; }
    location = /lost { internal; error_page 502 503; proxy_pass http://127.0.0.1:$nobody; }
    location = /slow { internal; proxy_pass http://app/?fault=hang&at=start; }
    location = /not-there { internal; return 404; }
END2

# Why the module does not do it in the same way, and what docs/security.md says of auth_request.
if ($stock) {
    is $site->status('/of-nginx', 'status=401'), 200, 'auth_request: an error page lets in who was denied';
    is $site->status('/of-nginx-down', ''), 200, 'auth_request: an error page lets everybody in while the server is down';
}
if (!is_ours()) {
    $site->stop;
    done_testing;
    exit;
}

sub expect {
    my ($title, $path, $script, $status, $app, %options) = @_;
    $site->asked;
    my $answer = $site->get($path, $script, %options);
    is $answer->{status}, $status, "$title: $status";
    my ($asked) = $site->asked =~ /app (\d+)/;
    is $asked, $app, "$title: app asked $app" if defined $app;
    return $answer;
}

# Nobody there: an error, whatever the page for it says, which is not even asked for.
expect('down', '/down/500', '', 500, 0);
expect('down', '/down/allow', '', 200, 1);
like $site->log_since, qr/unexpected status: 502, request is allowed/, 'down: nobody is let in without a word';

# A denial stays a denial. A status that cannot be passed does not become a permission either.
for my $name (qw(plain page changed named proxied recursive lost-page fastcgi cached)) {
    for my $mode (qw(500 allow body)) {
        expect("$name, $mode: 401", "/$name/$mode", 'status=401', 401) for 1, 2;
        expect("$name, $mode: 403", "/$name/$mode", 'status=403', 403);
        expect("$name, $mode: 404", "/$name/$mode", 'status=404', 500, 0) for 1, 2;
        expect("$name, $mode: permitted", "/$name/$mode", 'status=200', 200, 1);
    }
    expect("$name: 500", "/$name/500", 'status=500', 500, 0);
    expect("$name: 500, allowed", "/$name/allow", 'status=500', 200, 1);
}
expect('return', "/returned/$_", '', 403, 0) for 500, 'allow';
expect('try_files', "/missing/$_", '', 500, 0) for 500, 'allow';
for my $agent ('MSIE', 'other') {
    my @is = (headers => { 'User-Agent' => "Mozilla/4.0 (compatible; $agent 6.0)" });
    expect("a page that refreshes, $agent", "/refreshed/$_", '', 302, 0, @is) for 500, 'allow';
}

expect('a redirect whose page is not asked for', '/old', 'status=302', 500, 0, headers => { 'User-Agent' => 'MSIE 6.0' });

# A denial whose page does not arrive cannot be passed, but never becomes a permission.
expect("no page in time, $_", "/slow-page/$_", 'status=401', 500) for 500, 'allow', 'body';
like $site->log_since, qr/auth subrequest timed out/, 'no page in time: logged';
is $site->status('/slow-page/allow', 'status=204'), 200, 'no page in time: not asked for without a denial';

# X-Accel-Redirect hands over the answer, but not the decision: every location on the way has to permit.
for my $to ('/page.html', '/to-app', '@backup') {
    my @to = (header => "X-Accel-Redirect:$to");
    for my $mode (qw(500 allow body)) {
        expect("401 by $to, $mode", "/plain/$mode", script(status => 401, @to), 401);
        expect("404 by $to, $mode", "/plain/$mode", script(status => 404, @to), 500);
        expect("200 by $to, $mode", "/plain/$mode", script(status => 200, @to), 200);
    }
}
expect('200, and then 404', "/plain/$_", script(status => 200, header => 'X-Accel-Redirect:/not-there'), 500, 0)
    for 500, 'allow';
expect('401, and then nothing', "/slow-redirect/$_", script(status => 401, header => 'X-Accel-Redirect:/slow'), 500)
    for 500, 'allow';

# What nginx itself does to get an answer is not a verdict: the answer is.
expect('the next server', '/tried/500', 'status=403&only=0', 200, 1);
is $two->stats($_)->{requests}, 1, "the next server: $_ was asked" for 0, 1;
expect('both servers', '/tried/500', 'status=403', 403, 0);
# Who was passed over has answered, if nobody else does.
for my $mode (qw(500 allow body)) {
    expect("403, and the next one is down, $mode", "/half/$mode", 'status=403', 403);
    expect("404, and the next one is down, $mode", "/half/$mode", 'status=404', 500, 0);
    expect("403, and the next one is mute, $mode", "/slow-half/$mode", 'status=403', 500, 0);
    expect("500, $mode", "/half/$mode", 'status=500', $mode eq 'allow' ? 200 : 500);
}
expect('to be stale', '/stale/500', 'status=200', 200, 1);
my $answer;
ok wait_for { ($answer = $site->get('/stale/500', 'status=500'))->{status} == 200
        && $site->{auth}->last_request->{line} =~ /status=500/ }, 'a stale answer of the cache: it decides'
    or diag $answer->{status};

# An error page may lend a denial its headers and its body, if it is sent with the status of the denial.
my @challenge = (header => 'WWW-Authenticate:Bearer');
for my $case (['page', 'a page'], ['changed', undef], ['named', undef]) {
    my ($name, $body) = @$case;
    $answer = $site->get("/$name/body", script(status => 401, @challenge, header => 'Set-Cookie:a=1', body => 'theirs'));
    is "$answer->{status} @{[ values_of('WWW-Authenticate', $answer) ]}", '401 Bearer', "$name: the challenge stays";
    if (defined $body) { is $answer->{body}, $body, "$name: its body" }
    else { like $answer->{body}, qr/<center>nginx/, "$name: not the body of another response" }
}

$site->stop;
done_testing;
