# auth_subrequest_error: what happens to the request when the authorisation server is unreachable or its answer is invalid.
#
# faults: F20.1 "a body larger than any buffer" "a slow body"
# faults: F20.3 "expect_error('refused'"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();

my %outcome = (500 => 500, 503 => 503, allow => 200);
my @modes = sort keys %outcome;
my $nobody = free_port();

# Auth locations, and for each of them protected locations by what an error means.
my %auth = (
    script  => 'proxy_pass http://auth/?$http_x_auth;',
    fixed   => 'proxy_pass http://auth/?status=500;',
    refused => "proxy_pass http://127.0.0.1:$nobody;",
    down    => 'proxy_pass http://down;',
    retried => 'proxy_pass http://retried;',
    paged   => "proxy_intercept_errors on; error_page 502 504 /a-page; proxy_pass http://127.0.0.1:$nobody;",
    (map { ("returns$_" => "return $_;") } 408, 444, 499),
    timeout => 'proxy_intercept_errors on; error_page 408 /timeout-page; proxy_pass http://auth/?status=408;',
    missing => 'root /nowhere; try_files /none =503;',
    cycle   => 'try_files /none /auth-cycle;',
    unnamed => 'proxy_pass http://$http_x_auth;',
);
my $locations = '';
for my $name (sort keys %auth) {
    $locations .= "location = /auth-$name { internal; $auth{$name} }\n";
    for my $mode (@modes) {
        $locations .= "location /$name/$mode { auth_subrequest /auth-$name; auth_subrequest_error $mode;"
            . " auth_subrequest_timeout 300ms; proxy_pass http://app; }\n";
    }
}
$locations .= "location /body/$_ { auth_subrequest /auth-script; auth_subrequest_error $_; auth_subrequest_timeout 300ms;"
    . " auth_subrequest_pass_body 1k; proxy_pass http://app; }\n" for @modes;
$locations .= "location = /timeout-page { internal; return 408; }\n";
$locations .= "location = /a-page { internal; return 200 'not to be taken for a permission'; }\n";
my $stock = has_feature('with-http_auth_request_module');
$locations .= 'location /stock { auth_request /auth-script; proxy_pass http://app; }' if $stock;

my $site = Keepalive::Auth->new(locations => $locations, http => <<"END")->start;
upstream down { server 127.0.0.1:$nobody down; }
upstream retried { server 127.0.0.1:$nobody max_fails=0; server 127.0.0.2:$nobody max_fails=0; }
END
$site->get('/script/500', 'status=204');
my $descriptors = $site->descriptors;

# The same question in all modes at once: the statuses, and how long they took.
sub ask {
    my ($location, $script, %options) = @_;
    my $begun = time;
    my %request = map { $_ => $site->begin("/$location/$_", $script, %options) } @modes;
    my %status = map { $_ => $request{$_}->finish->{status} } @modes;
    return (\%status, time - $begun);
}

sub expect_error {
    my ($title, $location, $script, %options) = @_;
    $site->log_since;
    my ($status, $took) = ask($location, $script, %options);
    is_deeply $status, \%outcome, "$title: the configured error";
    cmp_ok $took, '<', 2, "$title: within the budget";
    my $log = $site->log_since;
    my @lines = grep { /\[error\].*auth subrequest/ } split /\n/, $log;
    cmp_ok scalar @lines, '>=', 3, "$title: each is logged" or diag $log;
    is scalar(grep { /request is allowed/ } @lines), 1, "$title: and so is that one was allowed" or diag $log;
}

sub expect_allowed {
    my ($title, $script) = @_;
    my ($status, $took) = ask('script', $script);
    is_deeply $status, { map { $_ => 200 } @modes }, "$title: allowed";
    cmp_ok $took, '<', 2, "$title: without waiting for its end";
}

sub endless_chunks {
    my ($status) = @_;
    return script(raw => "HTTP/1.1 $status X\r\nTransfer-Encoding: chunked\r\n\r\n", framing => 'chunked',
        fault => 'endless', at => 'end');
}

sub still_well {
    my ($title) = @_;
    my ($status) = ask('script', 'status=204');
    is_deeply $status, { map { $_ => 200 } @modes }, "$title: the next ones are allowed";
    ($status) = ask('script', 'status=403');
    is_deeply $status, { map { $_ => 403 } @modes }, "$title: or denied";
}

# Nobody there, no answer, an answer that is none.
expect_error('refused', 'refused', '');
expect_error('all servers down', 'down', '');
expect_error('two servers refuse', 'retried', '');
expect_error('refused, with a page', 'paged', '');
expect_error('503 of a location', 'missing', '');
expect_error('a location that redirects to itself', 'cycle', '');
expect_error('a name that does not resolve', 'unnamed', 'unknown-host');
# Statuses by which nginx ends a request without an answer: they are answers of the location that was asked, and it has
# not said that the request may go on.
for my $name (qw(returns408 returns444 returns499 timeout)) {
    $site->log_since;
    my ($status) = ask($name, '');
    is_deeply $status, { 500 => 500, 503 => 503, allow => 500 }, "$name: the configured error";
    my $lines = () = $site->log_since =~ /auth subrequest unexpected status: 4\d\d/g;
    is $lines, 3, "$name: each is logged";
}
expect_error("status $_", 'script', "status=$_") for 500, 502, 503, 504, 599;
for my $fault (qw(close reset)) {
    expect_error("$fault before the answer", 'script', "fault=$fault&at=start");
    expect_error("$fault in the header", 'script', "fault=$fault&at=header");
}
expect_error('a broken header', 'script', script(raw => "HTTP/1.1 200 OK\r\nX-Bad: a\0b\r\n\r\n"));
expect_error('an endless header', 'script', 'status=204&fault=endless&at=header');
expect_error('a header that is too big', 'script', 'status=204&fill=20000');
expect_error('101', 'script', 'upgrade=1');
expect_error('garbage', 'script', script(raw => "no HTTP at all\r\n\r\n"));
expect_error('garbage that does not end', 'script', script(raw => "\x16\x03\x01" . 'x' x 100, fault => 'close'));
expect_error('an unknown protocol', 'script', script(raw => "SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
expect_error('a status of two digits', 'script', script(raw => "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"));
expect_error('a status of 199', 'script', 'status=199');
still_well('errors');

# Not in time.
expect_error('no answer', 'script', 'fault=hang&at=start');
expect_error('a late answer', 'script', 'status=204&delay=1000');
expect_error('half a header', 'script', 'status=204&fault=hang&at=header');
expect_error('a slow header', 'script', script(raw => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", drip => 100));
still_well('timeouts');

# The header is the decision: an error in the body concerns the connection, not the request.
expect_allowed('a slow body', 'len=1000&drip=100');
expect_allowed('a body that does not come', 'len=1000&fault=hang&at=body');
expect_allowed('a body that is cut', "len=1000&fault=$_&at=body") for qw(close reset);
expect_allowed('a body larger than any buffer', 'len=2000000');
expect_allowed('an endless body', 'len=10&framing=eof&fault=endless&at=body');
expect_allowed('endless chunks', endless_chunks(200));
expect_allowed('chunked garbage',
    script(raw => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nthis is no chunk\r\n"));
expect_allowed('bytes behind the answer', 'status=204&fault=extra');
expect_allowed('HTTP/1.0', 'version=1.0&status=204');
expect_allowed('an answer that ends with its connection', 'framing=eof');
still_well('bad bodies');

# Where nginx's own parser decides what is an answer, auth_subrequest follows it as auth_request does.
my %answer_of = (
    '100 first' => 'status=204&interim=100', '102 first' => 'status=204&interim=102',
    '103 first' => 'status=204&interim=103', '103 twice' => 'status=204&interim=103,103',
        'only 100' => 'interim=100&fault=hang&at=start',
    (map { ("headers $_" => script(raw => join "\r\n", 'HTTP/1.1 200 OK', split(/, /, $_), '', 'x' x 5)) }
        'Content-Length: abc', 'Content-Length: -1', 'Content-Length: 99999999999999999999', 'Content-Length:',
        'Content-Length: 5, Content-Length: 5', 'Content-Length: 5, Content-Length: 7',
            'Content-Length: 5, Transfer-Encoding: chunked',
        'Transfer-Encoding: chunked, Transfer-Encoding: chunked', 'Transfer-Encoding: identity', 'Server: a, Server: b',
        'Date: a, Date: b', 'Content-Type: a/b, Content-Type: c/d', ': no name', 'no colon', 'X-Control: a' . "\x01"),
    'status 999' => 'status=999', 'status 600' => 'status=600', 'status 000' => script(raw => "HTTP/1.1 000 X\r\n\r\n"),
);
for my $title (sort keys %answer_of) {
    last unless $stock;
    my $script = $answer_of{$title};
    my $as_stock = $site->begin('/stock', $script, timeout => 1)->finish->{status};
    my ($status, $took) = ask('script', $script);
    is $status->{500}, $as_stock || 500, "$title: $as_stock as with auth_request";
    is $status->{503}, $as_stock == 200 ? 200 : 503, "$title: the other error";
    cmp_ok $took, '<', 2, "$title: within the budget";
}
still_well('odd answers');

# The page of a denial does not come: whatever is done about that, the denial stays one.
my %page = (
    slow => 'len=500&drip=100', absent => 'len=500&fault=hang&at=body', closed => 'len=500&fault=close&at=body',
    reset => 'len=500&fault=reset&at=body', 'cut chunks' => 'len=500&framing=chunked&fault=close&at=body',
    garbage => script(raw => "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\nthis is no chunk\r\n"),
    'a huge chunk' => script(raw => "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
    'followed by more' => 'len=500&framing=chunked&fault=extra', 'slow chunks' => 'len=500&framing=chunked&drip=100',
);
my %large = (
    'larger than any buffer' => 'len=2000000', 'endless' => 'len=10&framing=eof&fault=endless&at=body',
    'endless chunks' => endless_chunks(401), 'endless with a length' =>
    'len=10&framing=eof&header=Content-Length:100000000000&fault=endless&at=body',
);
for my $title (sort keys %page) {
    my ($status, $took) = ask('body', "status=401&$page{$title}");
    like $status->{$_}, $_ eq '503' ? qr/^(?:401|503)$/ : qr/^(?:401|500)$/, "the page is $title: $_" for @modes;
    cmp_ok $took, '<', 2, "the page is $title: within the budget";
}
for my $title (sort keys %large) {
    my ($status, $took) = ask('body', "status=401&$large{$title}");
    is_deeply $status, { map { $_ => 401 } @modes }, "the page is $title: the denial without it";
    cmp_ok $took, '<', 2, "the page is $title: within the budget";
}
still_well('bad pages');

# Requests with a body, and clients that go on with the same connection.
expect_error('POST', 'script', 'fault=close&at=start', method => 'POST', body => 'x' x 100_000);
# (nginx itself closes the client's connection after a 500.)
for my $mode (503, 'allow') {
    my $request = $site->begin("/script/$mode", 'fault=hang&at=start', keep_alive => 1, method => 'POST',
        body => 'x' x 1000);
    like $request->receive, qr{^HTTP/1.1 $outcome{$mode} }, "keep-alive, $mode";
    my $next = $site->begin("/script/$mode", 'status=204', keep_alive => 1, over => $request->{socket});
    like $next->receive, qr{^HTTP/1.1 200 }, "keep-alive, $mode: the connection goes on";
}

$site->expect_no_connection('at the end');
is $site->descriptors, $descriptors, 'no descriptor is left';
$site->stop;
done_testing;
