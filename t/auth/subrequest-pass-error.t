# auth_subrequest_error pass: the client gets the status with which the authorisation has failed, and the Retry-After of the server.
#
# faults: F20.3 "nobody answers"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Client;
use Keepalive::Setup;

needs_module();

my $nobody = free_port();
my %auth = (
    script  => 'proxy_pass http://auth/?$http_x_auth;',
    refused => "proxy_pass http://127.0.0.1:$nobody;",
    full    => 'proxy_pass http://full/?$http_x_auth;',
    paged   => 'proxy_pass http://full/?$http_x_auth; error_page 503 @busy;',
    changed => 'proxy_pass http://full/?$http_x_auth; error_page 503 =200 @fine;',
    slow    => 'proxy_pass http://auth/?$http_x_auth; proxy_read_timeout 200ms;',
);
my $locations = "location \@busy { return 503 busy; }\nlocation \@fine { return 200 fine; }\n";
for my $name (sort keys %auth) {
    $locations .= "location = /auth-$name { internal; $auth{$name} }\n";
    for my $mode (qw(500 503 pass allow)) {
        $locations .= "location /$name/$mode { auth_subrequest /auth-$name; auth_subrequest_error $mode;"
            . " auth_subrequest_timeout 400ms; proxy_pass http://app; }\n";
    }
    $locations .= "location /$name/page { auth_subrequest /auth-$name; auth_subrequest_error pass; auth_subrequest_pass_body 1k;"
        . " proxy_pass http://app; }\n";
    $locations .= "location /$name/told { auth_subrequest /auth-$name; auth_subrequest_error pass; add_header Retry-After \$retry_after always;"
        . " proxy_pass http://app; }\n";
}
my $site;
{
    # The upstream `full` is `auth`, with a limit and a queue.
    $site = Keepalive::Auth->new(locations => $locations, upstream_auth => 'keepalive 4;', http => '%FULL%');
    my $http = $site->{nginx}{http};
    my $address = $site->{auth}->address;
    $http =~ s/%FULL%/upstream full { zone full 64k; server $address max_conns=1; keepalive 1; queue 1 timeout=100ms status=503; }\nmap \$status \$retry_after { 503 7; }/;
    $site->{nginx}->configure(http => $http);
    $site->start;
}

# The status of the answer, and its Retry-After.
sub told {
    my ($path, $script) = @_;
    my $answer = $site->get($path, $script);
    return join ' ', $answer->{status}, $answer->{headers}{'retry-after'} // '-';
}

# What the queue says, while another request has the only connection.
my $held = $site->begin('/full/500', 'delay=350');
ok wait_for { $site->{auth}->stats->{busy} }, 'the only connection is in use';
is told('/full/pass', 'status=204'), '503 -', 'pass: the status of the queue';
is told('/full/told', 'status=204'), '503 7', 'pass: with Retry-After, as documented';
is told('/full/500', 'status=204'), '500 -', '500: nothing of it';
$held->finish;
$held = $site->begin('/full/500', 'delay=350');
ok wait_for { $site->{auth}->stats->{busy} }, 'the only connection is in use again';
is told('/paged/pass', 'status=204'), '503 -', 'pass: an error page in the location of the question';
is told('/changed/pass', 'status=204'), '503 -', 'pass: a page with another status is not passed, and permits nothing';
$held->finish;
$held = $site->begin('/full/500', 'delay=350');
ok wait_for { $site->{auth}->stats->{busy} }, 'the only connection is in use once more';
is told('/full/503', 'status=204'), '503 -', '503: without the header';
like told('/full/allow', 'status=204'), qr/^200 /, 'allow: the request goes on';
$held->finish;

# Other failures.
is told('/refused/told', 'status=204'), '502 -', 'pass: no Retry-After for another status';
is told('/script/told', 'status=204'), '200 -', 'pass: nor for a permission';
is told('/refused/pass', ''), '502 -', 'pass: nobody answers';
is told('/slow/pass', 'fault=hang&at=start'), '504 -', 'pass: a server that does not answer in time';
is told('/script/pass', 'fault=hang&at=start'), '504 -', 'pass: the time limit of the decision';
is told("/script/pass", "status=$_&header=Retry-After:5"), "$_ 5", "pass: a server that answers with $_" for 500, 503, 599;
is told('/script/pass', 'status=404&header=Retry-After:5'), '500 -', 'pass: a status that is neither a failure nor a denial';
is told('/script/pass', 'status=302&header=Retry-After:5'), '500 -', 'pass: a redirect';
is told('/script/pass', 'status=403&header=Retry-After:5'), '403 5', 'pass: a denial is a denial';
is told('/script/pass', 'status=204'), '200 -', 'pass: a permission is a permission';
is told('/script/500', 'status=503&header=Retry-After:5'), '500 -', '500: nothing is passed';

# The body is nginx's page: that of a failed server is no denial.
for my $path ('/script/page', '/script/pass') {
    my $answer = $site->get($path, 'status=503&len=20&header=Retry-After:5');
    like $answer->{body}, qr/503 Service Temporarily Unavailable/, "$path: the body is nginx's page";
}

my $log = $site->{nginx}->error_log;
like $log, qr/auth subrequest unexpected status: 503/, 'the error log says it';
like $log, qr/auth subrequest timed out/, 'also that the time was over';
$site->stop;

done_testing;
