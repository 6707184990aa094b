# The hint about a pool with little effect: on the page's data, in the metrics, and once in an error log at its default level; and
# none where it would be wrong.
#
# about: status

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $port = free_port();
my %backend = (proxy => Keepalive::Backend->start(listen => [('127.0.0.1:0') x 3]),
    map { ($_ => Keepalive::Backend->start(protocol => $_)) } qw(fastcgi uwsgi));
my %server = map { ($_ => $backend{$_}->address) } keys %backend;
my $refuses = '127.0.0.1:' . free_port();
my $pool = 'keepalive 4;';
my $closing = 'header=Connection:close';
# As nginx does by default before 1.29.7.
my $asks = 'proxy_http_version 1.1; proxy_set_header Connection close;';
# An answer that does not announce the end of its connection.
my $silent = 'raw=HTTP%2F1.1%20200%20OK%0D%0AContent-Length:%202%0D%0A%0D%0Aok&fault=close';
my @more = map { $backend{proxy}->address($_) } 0 .. 2;

# What is wrong with an upstream, `cause` is what the hint says; without it there is none. `upstream` stands beside the server,
# `location` in the location, `path` is the script of each request, or a list of scripts in turn; 100 requests are sent, or 64.
my @cases = (
    { name => 'fine' },
    # What stands in a location.
    { name => 'old_version', location => 'proxy_http_version 1.0;', cause => 'request_http_1_0' },
    { name => 'old_version_alone', location => 'proxy_http_version 1.0; proxy_set_header Connection "";', path => $silent,
        cause => 'request_http_1_0' },
    { name => 'old_version_later', location => 'proxy_http_version 1.0; proxy_set_header Connection "";', path => "$silent&after=20",
        pause => 0.04, cause => 'request_http_1_0' },
    { name => 'asks_later', location => $asks, path => "$silent&after=20", pause => 0.04, cause => 'request_close' },
    { name => 'old_version_kept', location => 'proxy_http_version 1.0; proxy_set_header Connection keep-alive;' },
    { name => 'no_connection', location => $asks, cause => 'request_close' },
    { name => 'map', location => 'proxy_http_version 1.1; proxy_set_header Connection $upgrade; proxy_set_header Upgrade $http_upgrade;',
        cause => 'request_close' },
    { name => 'fastcgi', module => 'fastcgi', cause => 'fastcgi_close' },
    { name => 'fastcgi_kept', module => 'fastcgi', location => 'fastcgi_keep_conn on;' },
    { name => 'no_length_sent', location => "$proxy_keepalive proxy_pass_request_body off;", method => 'POST', path => 'early=1',
        cause => 'body_unsent' },
    { name => 'uwsgi', module => 'uwsgi', cause => 'protocol' },
    # What stands in the upstream.
    { name => 'one_request', upstream => "$pool keepalive_requests 1;", cause => 'keepalive_requests' },
    { name => 'two_requests', upstream => "$pool keepalive_requests 2;" },
    { name => 'no_time', upstream => "$pool keepalive_timeout 1ms;", pause => 0.01, cause => 'keepalive_timeout' },
    { name => 'short_life', upstream => "$pool keepalive_time 1ms;", path => 'delay=5', cause => 'keepalive_time' },
    { name => 'small', upstream => 'keepalive 1;', servers => \@more, cause => 'pool_full' },
    { name => 'small_each', upstream => 'keepalive 1 per_server;', servers => \@more },
    { name => 'before_balancer', upstream => "$pool least_conn;" },
    # What the server does.
    { name => 'server_1_0', path => 'version=1.0', cause => 'server_http_1_0' },
    { name => 'server_1_0_no_length', path => 'version=1.0&framing=eof', cause => 'server_http_1_0' },
    { name => 'closes', path => $closing, cause => 'server_close' },
    { name => 'closes_in_silence', path => 'fault=close', cause => 'server_closes_silently' },
    { name => 'closes_soon', path => 'fault=close&after=20', pause => 0.04, cause => 'server_closes_silently' },
    { name => 'no_length', path => 'framing=eof', cause => 'server_closes_silently' },
    { name => 'announces', path => 'header=Keep-Alive:timeout%3D0', cause => 'server_keep_alive' },
    # Identities.
    { name => 'names', location => "$proxy_keepalive proxy_bind 127.0.0.\$arg_n;", path => [map { "n=$_" } 1 .. 100], cause => 'identity' },
    { name => 'few_names', location => "$proxy_keepalive proxy_bind 127.0.0.\$arg_n;", path => [map { 'n=' . (1 + $_ % 3) } 1 .. 64] },
    # Clients.
    { name => 'abort', location => "$proxy_keepalive proxy_buffering off;", upstream => "$pool keepalive_drain 0;", path => 'len=1000&drip=100',
        abort => 1, cause => 'body_unread' },

    # None of these is a hint.
    { name => 'few', requests => 49, path => $closing },
    { name => 'half', path => ['', $closing] },
    { name => 'seldom', path => [('') x 9, $closing] },
    { name => 'errors', server => "server $refuses;", answer => 502 },
    { name => 'fails', path => 'fault=close&at=start', answer => 502 },
    { name => 'off', upstream => 'keepalive 0;', path => $closing },
    { name => 'http2', upstream => "$pool http2 on;", path => $closing, answer => qr/^\d+$/ },
    { name => 'upgraded', location => 'proxy_http_version 1.1; proxy_set_header Connection $upgrade; proxy_set_header Upgrade $http_upgrade;',
        path => 'upgrade=1', upgrade => 1 },
    # Clients come more rarely than the server allows: some connections stay, to see when it closes.
    { name => 'rare', path => 'idle=150', pause => 0.2 },
    { name => 'rare_post', path => 'idle=150', pause => 0.2, method => 'POST' },
);

my ($blocks, $locations) = ('', '');
for my $case (@cases) {
    my ($name, $module) = ($case->{name}, $case->{module} // 'proxy');
    my $servers = $case->{server} // join ' ', map { "server $_ max_fails=0;" } @{ $case->{servers} || [$server{$module}] };
    $blocks .= "upstream $name { @{[ $case->{upstream} // $pool ]} $servers }\n";
    my $location = $case->{location} // ($module eq 'proxy' ? $proxy_keepalive : '');
    $location .= join '', map { " ${module}_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
        'CONTENT_LENGTH $content_length', 'QUERY_STRING $query_string' if $module ne 'proxy';
    my $pass = $module eq 'proxy' ? "proxy_pass http://$name/" : "${module}_pass $name";
    $locations .= "location /$name/ { $location $pass; }\n";
}

# As it is by default.
my $nginx = Keepalive::Nginx->new(workers => 2, log_level => 'error', http => <<"END")->start;
map \$http_upgrade \$upgrade { default upgrade; '' close; }
$blocks
upstream unasked { server $server{proxy}; @{[ default_is_on() ? '' : 'keepalive 4;' ]} }
server {
    listen 127.0.0.1:$port;
    keepalive_requests 10000;
    location = /status { keepalive_status; }
    location /unasked/ { $asks proxy_pass http://unasked/; }
    $locations
}
END

my $status = Keepalive::Status->new($port);

sub send_requests {
    my ($case) = @_;
    my @paths = ref $case->{path} ? @{ $case->{path} } : ($case->{path} // '');
    my @wrong;
    for my $nth (0 .. ($case->{requests} // ($case->{cause} ? 100 : 64)) - 1) {
        my %options = $case->{method} ? (method => 'POST', body => 'x') : ();
        $options{headers} = { Upgrade => 'echo', Connection => 'upgrade' } if $case->{upgrade};
        my $request = begin($port, "/$case->{name}/?" . $paths[$nth % @paths], %options);
        if ($case->{abort} || $case->{upgrade}) {
            $request->receive;
            $request->abort;
        } else {
            my $answer = $request->finish;
            push @wrong, $answer->{status} unless $answer->{status} =~ ($case->{answer} // qr/^200$/);
        }
        sleep $case->{pause} if $case->{pause};
    }
    is "@wrong", '', "$case->{name}: the requests are answered";
}

# The hints in the error log, by the upstreams, each with how often it has come.
sub told {
    my (%seen, $log);
    $log = $nginx->error_log;
    $seen{$1}{$3}++ while $log =~ /\[error\] \d+#\d+: keepalive of upstream "(\w+)" has little effect: (\d+) of the last \d+ requests reused a connection; (.+)$/mg;
    return \%seen;
}

# How connections have ended, for who reads the test's output.
sub ends {
    my ($upstream) = @_;
    my %ends = (%{ $upstream->{closed} }, map { ("not_stored $_" => $upstream->{not_stored}{$_}) } keys %{ $upstream->{not_stored} });
    return "reused $upstream->{reused} of $upstream->{requests}, " . join ', ', map { "$_ $ends{$_}" } grep { $ends{$_} } sort keys %ends;
}

# Those that wait do so beside each other.
my @patient = grep { $_->{pause} } @cases;
for my $case (@patient) {
    my $pid = fork // die "fork: $!";
    next if $pid;
    Test::More->builder->no_ending(1);
    Test::More->builder->output(\my $output);
    Test::More->builder->failure_output(\$output);
    send_requests($case);
    require POSIX;
    POSIX::_exit(Test::More->builder->is_passing ? 0 : 1);
}
send_requests($_) for grep { !$_->{pause} } @cases;
for (@patient) {
    wait;
    is $?, 0, 'requests with pauses are answered';
}
send_requests({ name => 'unasked', requests => 100 });

my $json = $status->json->{upstreams};
my %expected;
for my $case (@cases) {
    my $hint = $json->{ $case->{name} }{hint};
    note "$case->{name}: ", ends($json->{ $case->{name} });
    is $hint && $hint->{cause}, $case->{cause}, "$case->{name}: " . ($case->{cause} // 'no hint');
    next unless $hint;
    cmp_ok $hint->{requests}, '>=', 50, 'of enough requests';
    cmp_ok $hint->{reused}, '<=', $hint->{requests} / 2, 'of which few have reused a connection';
    $expected{ $case->{name} }{ $hint->{text} } = 1;
}
is $json->{unasked}{hint}{cause}, 'request_close', 'a pool that is there by default has its hint';
$expected{unasked}{ $json->{unasked}{hint}{text} } = 1 unless default_is_on();
is_deeply told(), \%expected, 'each hint is in the error log, once' or diag explain told();

is_deeply [sort grep { /^nginx_upstream_keepalive_hint\b/ } keys %{ $status->metrics }],
    [sort map { qq(nginx_upstream_keepalive_hint{cause="$json->{$_}{hint}{cause}",upstream="$_"}) } grep { $json->{$_}{hint} } keys %$json],
    'and in the metrics';

# A server that was mended.
{
    my %case = (name => 'closes', requests => 10);
    send_requests(\%case);
    is $status->json->{upstreams}{closes}{hint}, undef, 'a few requests later the hint is gone';
}

# After a reload nothing is known at first. What is still wrong is told again, but not for ever.
for my $nth (1 .. 5) {
    my @old = $nginx->reload;
    ok wait_for { !grep { Keepalive::Nginx::is_alive($_) } @old }, 'the old workers are gone';
    is $status->json->{upstreams}{old_version}{hint}, undef, 'after a reload there is no hint';
    send_requests({ name => 'old_version', requests => 100 });
    is $status->json->{upstreams}{old_version}{hint}{cause}, 'request_http_1_0', 'what is still wrong is known again';
}
is_deeply [values %{ told()->{old_version} }], [4], 'it is told four times in an hour';

done_testing;
