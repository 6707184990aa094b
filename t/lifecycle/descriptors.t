# After thousands of requests of all kinds no descriptor and no TLS connection is left open.
#
# faults: F15.2 "after the idle timeout there are as many descriptors as before"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]);
my ($port, $secure) = map { free_port() } 1 .. 2;
my ($certificate, $key) = self_signed('localhost');
my $servers = join ' ', map { 'server ' . $backend->address($_) . ' max_fails=0;' } 0 .. 2;

my $nginx = Keepalive::Nginx->new(log_level => 'warn', http => <<"END")->start;
$proxy_keepalive
proxy_read_timeout 300ms;
upstream roomy { $servers keepalive 32; keepalive_timeout 300ms; }
upstream tight { $servers keepalive 2; keepalive_timeout 300ms; keepalive_requests 7; }
upstream secure { server 127.0.0.1:$secure; server 127.0.0.2:$secure; keepalive 1; keepalive_timeout 300ms; }
server {
    listen 127.0.0.1:$secure ssl;
    listen 127.0.0.2:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    keepalive_requests 100000;
    location / { return 200 secure; }
}
server {
    listen 127.0.0.1:$port;
    location /roomy  { proxy_pass http://roomy; }
    location /tight  { proxy_pass http://tight; }
    location /secure { proxy_pass https://secure; }
}
END

# Ordinary answers, faults of all kinds, and long ones, mixed.
my @scripts = ('', 'len=0', 'status=204', 'framing=chunked', 'framing=trailers&len=5000', 'len=200000', '', 'delay=5',
    'fault=close', 'fault=reset', 'fault=extra', 'fault=extra&after=5', 'fault=close&at=start', 'fault=reset&at=header',
    'fault=close&at=body&len=5000', 'fault=reset&at=body&framing=chunked', 'framing=eof', 'header=Connection:close',
    'version=1.0', 'fault=close&from=3');
my @hanging = ('fault=hang&at=start', 'fault=hang&at=body&len=1000');

sub mixed_load {
    my ($requests) = @_;
    my $load = Keepalive::Load->start($port, clients => 6, requests => $requests / 6, request => sub {
        my ($number, $client) = @_;
        my @choice = $number % 100 == 50 ? @hanging : @scripts;
        my $script = $choice[($number * 7 + $client) % @choice];
        my %options = $number % 5 ? () : (method => 'POST', body => 'x' x ($number % 3 ? 10 : 100000));
        return (($number % 2 ? '/roomy' : '/tight') . "?$script", %options);
    });
    my ($answers, @failures) = $load->finish;
    return $answers;
}

get($port, $_) for qw(/roomy /tight /secure);
ok wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 }, 'after the first requests all pools are empty again';
my $before = $nginx->descriptors;

my $answers = mixed_load(3000);
is $answers, 3000, 'all requests of the mixed load came to an end';
ok wait_for { $nginx->descriptors <= $before }, 'after the idle timeout there are as many descriptors as before'
    or diag $nginx->descriptors . " instead of $before";
ok wait_for { !grep { $backend->stats($_)->{open} } 0 .. 2 }, 'the servers see no open connection either';

# Connections evicted with TLS: each would leak some ten kilobytes if its TLS state were not freed.
my ($worker) = $nginx->workers;
get($port, '/secure') for 1 .. 300;
my $memory = memory_of($worker);
get($port, '/secure') for 1 .. 600;
memory_is_below memory_of($worker) - $memory, 3000, 'the memory of evicted TLS connections is freed (kB)';
ok wait_for { $nginx->descriptors <= $before }, 'and so are their descriptors';

$nginx->stop;
done_testing;
