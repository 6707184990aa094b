# Authorisation needs few connections, whatever the answers look like: thousands of questions, with and without a queue.
#
# faults: F20.1 "200 chunked"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Backend;
use Keepalive::Load;
use Keepalive::Setup;

needs_module();

# What the authorisation server says, and how a client takes it.
my $json = '{"error":"not today"}';
my @answers = (
    ['204',         'status=204', 200],
    ['200 "OK"',    'body=OK', 200],
    ['200 chunked', 'len=500&framing=chunked', 200],
    ['401 JSON',    script(status => 401, header => 'Content-Type:application/json', body => $json), 401],
    ['403 JSON',    script(status => 403, header => 'Content-Type:application/json', body => $json), 403],
);
my $limited = Keepalive::Backend->start;

my $locations = '';
for my $number (0 .. $#answers) {
    my $script = $answers[$number][1];
    for my $kind (['plain', "http://auth/?$script&delay=20"], ['limited', "http://limited/?$script&delay=2"]) {
        my ($name, $target) = @$kind;
        $locations .= <<"END";
    location = /$name/auth/$number { internal; proxy_pass $target; }
    location = /$name/$number { auth_subrequest /$name/auth/$number; proxy_pass http://app; }
    location = /$name/page/$number {
        auth_subrequest /$name/auth/$number;
        auth_subrequest_pass_body 1k;
        proxy_pass http://app;
    }
END
    }
}
my $site = Keepalive::Auth->new(connections => 4096, upstream_auth => 'keepalive 128;', locations => $locations,
    http => <<"END")->start;
upstream limited { server @{[ $limited->address ]} max_conns=4; keepalive 4; queue 2000 timeout=60s; }
keepalive_requests 100000;
END

# So many requests by a hundred clients; all must be answered alike.
sub load {
    my ($title, $path, $requests, $status, $body) = @_;
    my $load = Keepalive::Load->start($site->{port}, clients => 100, requests => $requests / 100, keep_alive => 1,
        request => sub { $path });
    $load->finish;
    my @lines = $load->lines;
    is @lines, $requests, "$title: $requests requests";
    my @others = grep { !/^$status \S+ $body/ } @lines;
    is $others[0], undef, "$title: all of them are answered as they should be";
}

for my $number (0 .. $#answers) {
    my ($title, undef, $status) = @{ $answers[$number] };
    my @ways = ['', $status == 200 ? 'connection' : '<html>'];
    push @ways, ['/page', quotemeta $json] if $status != 200;
    for my $way (@ways) {
        my ($path, $body) = @$way;
        for my $kind (['plain', $path ? 1000 : 5000, $site->{auth}], ['limited', 500, $limited]) {
            my ($name, $requests, $server) = @$kind;
            my $case = "$title$path, $name";
            $_->drop for $server, $site->{app};
            wait_for { !$server->stats->{open} && !$site->{app}->stats->{open} };
            $_->reset for $server, $site->{app};
            load($case, "/$name$path/$number", $requests, $status, $body);
            my $stats = $server->stats;
            is $stats->{requests}, $requests, "$case: each was asked for once";
            if ($name eq 'limited') {
                is_deeply [@$stats{qw(accepted max_open)}], [4, 4], "$case: over exactly four connections";
            }
            else {
                cmp_ok $stats->{accepted}, '<=', 110, "$case: over $stats->{accepted} connections";
            }
            is $site->{app}->stats->{requests}, $status == 200 ? $requests : 0, "$case: what came to the site";
        }
    }
}

$site->expect_no_connection('at the end');
$site->stop;
done_testing;
