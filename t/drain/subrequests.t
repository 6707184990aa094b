# Subrequests: auth_request, mirror, SSI and add_before_body take connections from the pool and return them.
#
# faults: F20.9 "over one connection to each server"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
my $addition = has_feature('with-http_addition_module')
    ? 'location /addition { add_before_body /part; proxy_pass http://backend; }' : '';

my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
# That the server closes connections behind each tenth request is not to be learned.
upstream backend { server @{[ $backend->address(0) ]}; keepalive 32; keepalive_hint on; }
upstream helper  { server @{[ $backend->address(1) ]}; keepalive 32; keepalive_hint on; }
server {
    listen 127.0.0.1:$port;
    location /auth { auth_request /allow; proxy_pass http://backend; }
    location /forbidden { auth_request /deny; proxy_pass http://backend; }
    location /mirror { mirror /copy; proxy_pass http://backend; }
    location /ssi { ssi on; ssi_types text/plain; default_type text/plain; alias @{[ work_dir() ]}/page; }
    $addition
    location = /allow {
        proxy_pass http://helper/?status=204&delay=10;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
    location = /deny {
        proxy_pass http://helper/?status=403&len=0;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
    location = /copy { proxy_pass http://helper/?status=204; }
    location = /part { proxy_pass http://helper/?len=10; }
}
END

open my $page, '>', work_dir() . '/page' or die $!;
print $page '<!--# include virtual="/part" --> and <!--# include virtual="/part" -->';
close $page;

sub accepted { join ' ', map { $backend->stats($_)->{accepted} } 0, 1 }

sub begin_anew {
    $backend->drop;
    ok wait_for { !grep { $backend->stats($_)->{open} } 0, 1 }, 'the pools are empty';
    $backend->reset;
}

for my $case (['/auth', 200, '1 1'], ['/forbidden', 403, '0 1'], ['/mirror', 200, '1 1'],
    $addition ? ['/addition?header=Content-Type:text/html', 200, '1 1'] : ()) {
    my ($path, $status, $connections) = @$case;
    begin_anew();
    is join(' ', map { get($port, $path)->{status} } 1 .. 10), join(' ', ($status) x 10), "$path: ten requests";
    is accepted(), $connections, "$path: over one connection to each server";
}

begin_anew();
my $post = get($port, '/auth', method => 'POST', body => 'x' x 1000);
is $post->{headers}{'x-body-length'}, 1000, 'auth: a POST keeps its body';
is get($port, '/auth')->{status}, 200, 'auth: and harms nobody after it';
is accepted(), '1 1', 'auth: all over one connection to each server';

# The two includes run at the same time: two connections, which serve all following pages.
begin_anew();
is get($port, '/ssi')->{body}, 'xxxxxxxxxx and xxxxxxxxxx', "SSI: page $_" for 1 .. 5;
cmp_ok $backend->stats(1)->{accepted}, '<=', 2, 'SSI: two connections at most';
is $backend->stats(1)->{requests}, 10, 'SSI: for ten includes';

# Many at once, each request authorised by a subrequest: never more connections than clients.
begin_anew();
my ($answers, @failures) = Keepalive::Load->start($port, clients => 10, requests => 40, request => sub { '/auth' })->finish;
is_deeply \@failures, [], "none of $answers requests failed";
for my $listener (0, 1) {
    my $stats = $backend->stats($listener);
    is $stats->{requests}, 400, 'each request has come once';
    cmp_ok $stats->{accepted}, '<=', 10, "over $stats->{accepted} connections";
}

$nginx->stop;
done_testing;
