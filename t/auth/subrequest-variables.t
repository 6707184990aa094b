# A decision holds for the question that was asked, and so does what the configuration has set for it: where an internal
# redirect sets a variable anew, or matches another name, the authorisation server is asked again.
#
# faults: F20.7 "another value" "another name" "what an answer has set"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $log = work_dir() . '/subrequests.log';
my $gunzip = has_feature('with-http_gunzip_module') ? 'gunzip on;' : '';
my $site = Keepalive::Auth->new(http => <<'END', locations => <<'END2' =~ s/\$log/$log/r =~ s/\$gunzip/$gunzip/r)->start;
log_format subrequests '$uri $status <$sent_http_content_encoding>';
map $http_x_other $lazy { default lazy; }
map $http_x_rank $rank { default $http_x_rank; '' none; }
END
    proxy_intercept_errors on;
    auth_subrequest /judge;
    location = /judge {
        internal;
        if ($role = admin) { return 403; }
        if ($team = red) { return 403; }
        if ($rank = general) { return 403; }
        if ($http_x_level = high) { return 403; }
        proxy_pass http://auth/?status=204&role=$role&team=$team;
    }
    location /user { set $role user; error_page 404 = /admin; error_page 410 = /user2; error_page 418 = @none; error_page 409 = /more; proxy_pass http://app; }
    location /user2 { set $role user; proxy_set_header X-Lazy $lazy; proxy_pass http://app/?user2; }
    location /admin { set $role admin; proxy_pass http://app/?admin; }
    location @none { proxy_pass http://app; }
    location /more { set $role guest; proxy_pass http://app/?more; }
    location /rank { error_page 404 = /general; error_page 410 = /private; proxy_set_header X-Rank $rank; proxy_pass http://app; }
    location /unranked { error_page 404 = /general; error_page 410 = /private; proxy_pass http://app; }
    location /general { set $rank general; proxy_pass http://app/?general; }
    location /private { proxy_set_header X-Rank $rank; proxy_pass http://app/?private; }
    location /level { error_page 404 = /high; error_page 410 = /low; proxy_pass http://app; }
    location /high { set $http_x_level high; proxy_pass http://app/?high; }
    location /low { proxy_set_header X-Level $http_x_level; proxy_pass http://app/?low; }
    location /unset { error_page 404 = /admin; proxy_pass http://app; }
    location ~ ^/of/(?<team>\w+) { error_page 404 = /of/red; error_page 410 = /of/blue; proxy_pass http://app; }
    location /learned {
        auth_subrequest_set $from $upstream_status;
        proxy_set_header X-Lazy $lazy;
        error_page 404 = /learned/more;
        proxy_pass http://app;
    }
    location = /filtered {
        internal;
        $gunzip
        log_subrequest on;
        access_log $log subrequests;
        proxy_pass http://auth/?$http_x_auth;
    }
    location /unread { auth_subrequest /filtered; proxy_pass http://app; }
    location /read {
        auth_subrequest /filtered;
        auth_subrequest_set $length $sent_http_content_length;
        auth_subrequest_set $coding $sent_http_content_encoding;
        add_header X-Seen "<$length> <$coding>" always;
        proxy_pass http://app;
    }
    location /learned/more { proxy_set_header X-Lazy $lazy; proxy_pass http://app/?learned; }
END2
sub log_lines {
    open my $in, '<', $log or return '';
    return join '', <$in>;
}

sub expect {
    my ($title, $path, $status, $questions, $app) = @_;
    $site->asked;
    is $site->status($path, ''), $status, "$title: $status";
    is $site->asked, "auth $questions, app $app", "$title: asked for $questions, served $app";
}

# The judge itself says no to admin and to the red team.
expect('directly', '/admin', 403, 0, 0);
expect('directly', '/of/red', 403, 0, 0);
expect('directly', "/$_", 403, 0, 0) for 'general', 'high';
expect('another value', '/user?status=404', 403, 1, 1);
expect('a value where there was none', '/unset?status=404', 403, 1, 1);
expect('another name', '/of/blue?status=404', 403, 1, 1);
for my $path ('rank', 'unranked') {
    expect("$path: another value than that of a map", "/$path?status=404", 403, 1, 1);
    expect("$path: the value of the map", "/$path?status=410", 200, 1, 2);
}
expect('another value than that of a header', '/level?status=404', 403, 1, 1);
expect('no value of a header', '/level?status=410', 200, 1, 2);
expect('another value that is allowed', '/user?status=409', 200, 2, 2);
like $site->{auth}->last_request->{line}, qr/role=guest/, 'it is asked with the value of the location';

# What is the same is not asked again, nor is it for what an answer has set or is looked up later.
expect('the same value', '/user?status=410', 200, 1, 2);
expect('the same value, another location', '/user?status=418', 418, 1, 2);
expect('the same name', '/of/blue?status=410', 200, 1, 2);
expect('what an answer has set', '/learned?status=404', 200, 1, 2);

# What reads the header of a permission finds what nginx's filters have made of it; a location whose filters would change the body
# works as any other.
SKIP: {
    skip 'no gunzip', 5 unless $gunzip;
    my $script = 'status=200&len=10&header=Content-Encoding:gzip';
    is $site->get('/read', $script)->{headers}{'x-seen'}, '<> <>', 'variables of the filtered header';
    is $site->status('/unread', $script), 200, 'nothing reads the header';
    is $site->status('/unread', 'status=204'), 200, 'nothing reads the header of a 204';
    is $site->status('/unread', 'status=403'), 403, 'a denial';
    is log_lines(), join('', map { "/filtered $_ <->\n" } 200, 200, 204, 403), 'all are logged as they were filtered';
}

$site->stop;
done_testing;
