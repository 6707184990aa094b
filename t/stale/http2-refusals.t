# HTTP/2: a server that closes a connection (GOAWAY) or is too busy (REFUSED_STREAM) says which requests it has not processed.
# These are sent again, whatever their method, and it is no failure of the server.
#
# faults: F6.4 "some over another connection" "refused on a new connection, then answered"
# faults: F6.4 "by the one server twice, and by the other one once" "no server is taken for failed"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Client;
use Keepalive::Http2;
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'nginx has no gRPC' unless has_feature('with-http_v2_module');

# What each of two servers does from the second request of a connection on, or (`new`) from the first one on.
my %behaviour = (
    goaway   => { how => 'goaway' },
    slow     => { how => 'goaway', pieces => 1 },
    settings => { how => 'settings' },
    twice    => { how => 'twice' },
    refused  => { how => 'refused' },
    cancel   => { how => 'cancel' },
    answered => { how => 'answered' },
    half     => { how => 'goaway', early => 1 },
    new      => { how => 'refused', from => 1, every => 2 },
    leaving  => { how => 'settings', from => 1, every => 2 },
    full     => { how => 'refused', from => 1 },
    gone     => { how => 'goaway', from => 1 },
    well     => { how => 'refused', from => 1_000_000 },
    broken   => { how => 'broken' },
    off      => { how => 'goaway' },
    told     => { how => 'goaway' },
);
my (%server, %record);
for my $name (sort keys %behaviour) {
    for my $number (0, 1) {
        $record{"$name$number"} = work_dir() . "/$name$number.record";
        $server{"$name$number"} = Keepalive::Http2->start('', refuse => { from => 2, %{ $behaviour{$name} } },
            record => $record{"$name$number"});
    }
}
my %upstreams = map { ($_ => ["${_}0", "${_}1"]) } keys %behaviour;
$upstreams{one} = ['full0'];
$upstreams{other} = ['full0', 'well0'];
$upstreams{after} = ['broken0'];
my %more = (after => "server 127.0.0.1:$server{well1}{port} backup;", off => 'keepalive_stale_retry off;', told => 'keepalive_stale_fails on;');

my $port = free_port();
my %pass = (grpc => 'grpc_pass grpc://');
$pass{proxy} = 'proxy_http_version 2; proxy_pass http://' if version_at_least('1.29.4');
my ($upstreams, $locations) = ('', '');
for my $name (sort keys %upstreams) {
    my $servers = join ' ', map { "server 127.0.0.1:$server{$_}{port};" } @{ $upstreams{$name} };
    for my $protocol (sort keys %pass) {
        my $more = $more{$name} // '';
        $upstreams .= "upstream $protocol-$name { $servers keepalive 8; $more }\n";
        my $next = $name eq 'after' ? "${protocol}_next_upstream http_500 non_idempotent;" : '';
        $locations .= "location /$protocol/$name { $pass{$protocol}$protocol-$name; $next }\n";
    }
}
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
client_body_buffer_size 1m;
$upstreams
server {
    listen 127.0.0.1:$port;
    add_header X-Keepalive \$upstream_keepalive_status always;
    add_header X-Server \$upstream_addr always;
    $locations
}
END

# What the servers of an upstream have done since the last time: { answered, refused }.
sub done {
    my ($name) = @_;
    my %count = (answered => 0, refused => 0);
    for my $server (@{ $upstreams{$name} }) {
        open my $in, '<', $record{$server} or next;
        /^(\w+)/ and $count{$1}++ while <$in>;
        truncate $record{$server}, 0;
    }
    return "$count{answered} answered, $count{refused} refused";
}

my %post = (method => 'POST', body => 'x' x 100);

# So many requests; returns what became of them.
sub outcome {
    my ($number, $path, @options) = @_;
    my (%status, %how);
    for (1 .. $number) {
        my $answer = get($port, $path, @options);
        $status{ $answer->{status} }++;
        $how{ $answer->{headers}{'x-keepalive'} // '-' }++;
    }
    return (join(' ', map { "$status{$_} x $_" } sort keys %status), \%how);
}

for my $protocol (sort keys %pass) {
    for my $name (qw(goaway slow settings twice refused half)) {
        # The gRPC module keeps only the part of the body that arrived with the header.
        for my $size (100, undef, $protocol eq 'grpc' ? () : 20_000) {
            my $options = [defined $size ? (method => 'POST', body => 'x' x $size) : (method => 'GET')];
            my $title = "$protocol, $name, " . ($size ? "POST $size" : 'GET');
            my ($outcome, $how) = outcome(12, "/$protocol/$name", @$options);
            is $outcome, '12 x 200', "$title: all are answered";
            cmp_ok $how->{'STALE, MISS'} // 0, '>=', 4, "$title: some over another connection" or diag explain $how;
            like done($name), qr/^12 answered, [1-9]\d* refused$/, "$title: once each";
        }
    }
    my ($outcome) = outcome(8, "/$protocol/answered", %post);
    is $outcome, '8 x 200', "$protocol: a GOAWAY that lets the request pass, and the answer";
    is done('answered'), '8 answered, 0 refused', "$protocol: once each";

    # Another reason says nothing.
    get($port, "/$protocol/cancel", %post) for 1, 2;
    is get($port, "/$protocol/cancel", %post)->{status}, 502, "$protocol: a stream is reset for another reason";

    # On a connection that was opened for the request.
    for my $name (qw(new leaving)) {
        ($outcome) = outcome(6, "/$protocol/$name", %post);
        is $outcome, '6 x 200', "$protocol, $name: refused on a new connection, then answered";
        like done($name), qr/^6 answered, [1-9]\d* refused$/, "$protocol, $name: once each";
    }
    # A server that refuses everything is asked twice, and then the next one.
    for my $name (qw(full gone)) {
        is get($port, "/$protocol/$name", %post)->{status}, 502, "$protocol, $name: all is refused";
        is done($name), '0 answered, 3 refused', "$protocol, $name: by the one server twice, and by the other one once";
    }
    is get($port, "/$protocol/one", %post)->{status}, 502, "$protocol: all is refused by the only server";
    is done('one'), '0 answered, 2 refused', "$protocol: which is asked twice";
    ($outcome) = outcome(8, "/$protocol/other", %post);
    is $outcome, '8 x 200', "$protocol: what one server refuses, the other one answers";
    like done('other'), qr/^8 answered, [1-9]\d* refused$/, "$protocol: once each";
    cmp_ok scalar(() = $nginx->error_log =~ /upstream rejected request with error 7/g), '>', 8,
        "$protocol: the server that refuses is asked again and again";

    # Another server is asked by nginx itself, over a new connection: the request has the number of a new one there.
    my $asked = get($port, "/$protocol/after", %post);
    $asked = get($port, "/$protocol/after", %post) while $asked->{headers}{'x-server'} !~ /,/;
    is $asked->{status}, 200, "$protocol: a server has an error of its own, the next one answers";
    like $asked->{headers}{'x-keepalive'}, qr/^HIT, MISS$/, "$protocol: over a new connection";
    like $asked->{body}, qr/request 1$/, "$protocol: as its first request";

    # What directives say.
    get($port, "/$protocol/off", %post) for 1, 2;
    is get($port, "/$protocol/off", %post)->{status}, 502, "$protocol: keepalive_stale_retry off";
    ($outcome) = outcome(4, "/$protocol/off", method => 'POST', body => 'x');
    like $outcome, qr/ x 200/, "$protocol: but the servers are not out";
}
my @disabled = grep { /temporarily disabled/ && !m{/(?:cancel|after)} } split /\n/, $nginx->error_log;
is @disabled, 0, 'no server is taken for failed' or diag @disabled;

$nginx->stop;
done_testing;
