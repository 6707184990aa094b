# Cached decisions: proxy_cache and proxy_cache_lock in the location that auth_subrequest asks.
#
# faults: F20.9 "a hundred at once have the same answer"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my $cache = work_dir() . '/cache';
my $site = Keepalive::Auth->new(http => <<"END", locations => <<'END2')->start;
proxy_cache_path $cache keys_zone=decisions:1m;
END
    location / {
        auth_subrequest /remembered;
        auth_subrequest_pass_status 302 401 403;
        auth_subrequest_pass_body 1k;
        auth_subrequest_copy_header X-User;
        auth_subrequest_set $user $upstream_http_x_user;
        auth_subrequest_set $cached $upstream_cache_status;
        add_header X-User $user always;
        add_header X-Cached $cached always;
        add_header X-Status $auth_subrequest_status always;
        proxy_pass http://app;
    }
    location = /remembered {
        internal;
        proxy_cache decisions;
        proxy_cache_key $http_authorization;
        proxy_cache_valid 200 204 401 403 1s;
        proxy_cache_lock on;
        proxy_set_header Connection "";
        proxy_pass http://auth/?$http_x_auth;
    }
    location /background {
        auth_subrequest /background-remembered;
        auth_subrequest_timeout 300ms;
        auth_subrequest_set $cached $upstream_cache_status;
        add_header X-Cached $cached always;
        proxy_pass http://app;
    }
    location = /background-remembered {
        internal;
        proxy_cache decisions;
        proxy_cache_key "background $http_authorization";
        proxy_cache_valid 200 204 401 403 1s;
        proxy_cache_use_stale updating;
        proxy_cache_background_update on;
        proxy_set_header Connection "";
        proxy_pass http://auth/?$http_x_auth;
    }
    location /stale {
        auth_subrequest /stale-remembered;
        auth_subrequest_timeout 300ms;
        auth_subrequest_set $cached $upstream_cache_status;
        add_header X-Cached $cached always;
        proxy_pass http://app;
    }
    location = /stale-remembered {
        internal;
        proxy_cache decisions;
        proxy_cache_key "stale $http_authorization";
        proxy_cache_valid 200 204 401 403 1s;
        proxy_cache_use_stale error timeout http_500;
        proxy_set_header Connection "";
        proxy_pass http://auth/?$http_x_auth;
    }
END2

sub who { return headers => { Authorization => $_[0] } }

# An answer in short: status, the user that the site sees and nginx's variable, and whence the decision came.
sub told {
    my ($answer) = @_;
    my ($user) = $answer->{status} == 200 ? values_of('X-User', $site->{app}->last_request) : ();
    return join ' ', $answer->{status}, map { $_ || '-' } $user, @{ $answer->{headers} }{qw(x-user x-status x-cached)};
}

# A hundred at once ask once, then for each user once; and again when their time is over.
for my $case ([200, 200, 'len=10'], [204, 200, ''], [401, 401, 'body=denied'], [403, 403,
    'body=denied&framing=chunked']) {
    my ($says, $status, $more) = @$case;
    $site->asked;
    my @requests = map { $site->begin('/', "status=$says&delay=50&header=X-User:anne&$more",
        who("many-$says")) } 1 .. 100;
    my @answers = map { $_->finish } @requests;
    is scalar(grep { $_->{status} == $status } @answers), 100, "$says: a hundred at once have the same answer";
    is scalar(grep { $_->{headers}{'x-user'} eq 'anne' } @answers), 100, "$says: and the same user";
    is $site->asked, 'auth 1, app ' . ($status == 200 ? 100 : 0), "$says: asked once";
    is scalar(grep { $_->{body} eq 'denied' } @answers), 100, "$says: each with the page" if $status != 200;
}

for my $number (1, 2) {
    my $from = $number == 1 ? 'MISS' : 'HIT';
    is told($site->get('/', "status=200&header=X-User:$_&len=5", who("own-$_"))), "200 $_ $_ 200 $from",
        "$_: own decision, $from"
        for qw(anne bob carl);
}
is $site->get('/stale', 'status=204', who('eve'))->{headers}{'x-cached'}, 'MISS', 'stale: asked once';
is $site->get('/background', 'status=200&len=10', who('eve'))->{headers}{'x-cached'}, 'MISS', 'background: asked once';
sleep 2.1;
$site->asked;
is told($site->get('/', 'status=403&header=X-User:anne', who('own-anne'))), '403 - anne 403 EXPIRED',
    'two seconds later: asked anew';
is $site->asked, 'auth 1, app 0', 'once';

# Denials as they were, from the cache as well.
for my $from (qw(MISS HIT)) {
    my $answer = $site->get('/', script(status => 401, header => 'WWW-Authenticate:Bearer',
        header => 'Content-Type:application/json',
        body => '{"why":"no token"}'), who('json'));
    is told($answer), "401 - - 401 $from", "401, $from";
    is join(' ', @{ $answer->{headers} }{qw(www-authenticate content-type)}, $answer->{body}),
        'Bearer application/json {"why":"no token"}', "401, $from: with challenge, type and page";
}
# What is for one client only is not remembered: a redirect that has no time, a cookie, an answer that says so.
for my $script ('status=302&header=Location:/login', 'status=401&header=Set-Cookie:a=b',
    'status=200&header=Cache-Control:no-store') {
    is $site->get('/', $script, who($script))->{headers}{'x-cached'}, 'MISS', "$script: time $_" for 1, 2;
}

# The key is the Authorization header alone: requests of all methods share the decision of their user.
is told($site->get('/', 'status=200&header=X-User:dora', who('dora'), method => 'POST', body => 'x')),
    '200 dora dora 200 MISS', 'POST';
is told($site->get('/', 'status=403', who('dora'), method => 'HEAD')), '200 dora dora 200 HIT',
    'HEAD: the decision of the POST';
is told($site->get('/', 'status=403', who('dora'), method => 'POST', body => 'x')), '200 dora dora 200 HIT', 'POST again';

# A server that is down: its last answer is used, if the recipe says so.
for my $script ('fault=close&at=start', 'status=500', 'fault=close&at=header') {
    my $answer = $site->get('/stale', $script, who('eve'));
    is "$answer->{status} $answer->{headers}{'x-cached'}", '200 STALE', "stale: $script";
}
is $site->status('/stale', 'status=403', who('eve')), 403, 'stale: but a denial is a denial';
is $site->status('/stale', 'fault=close&at=start', who('eve')), 403, 'stale: which is remembered as well';

# Asked anew in the background: the old answer is good until the new one is there.
my $answer = $site->get('/background', 'status=403&delay=600&len=10', who('eve'));
is "$answer->{status} $answer->{headers}{'x-cached'}", '200 STALE', 'background: the old answer at first';
wait_for { $site->get('/background', 'status=500', who('eve'))->{headers}{'x-cached'} eq 'HIT' };
is $site->status('/background', 'status=500', who('eve')), 403, 'background: then the new one';

$site->expect_no_connection('at the end');
$site->stop;
done_testing;
