# docs/ documents what the module offers, and nothing else: directives with syntax, context and default, variables, metrics, and
# the fields of the JSON.
#
# about: documents

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Readme;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output);

# The sources, without their unit tests.
sub source { return content_of("src/$_[0]") =~ s/^#\[cfg\(test\)\].*//msr }

sub sorted { my %seen = map { $_ => 1 } @_; return [sort keys %seen] }

# Directives: the names in the two command tables.
my %documented = directives();
my @names = map { /static mut COMMANDS(.*?)^\];/ms ? $1 =~ /ngx_string!\("(\w+)"\)/g : () }
    map { source($_) } qw(ffi/setup/directives.rs ffi/auth/directives.rs);
cmp_ok scalar(@names), '>', 20, 'there are directives: ' . @names;
is_deeply sorted(keys %documented), sorted(@names), 'each of them is documented, and no other';

my $nginx = Keepalive::Nginx->new(http => '');

# auth_subrequest needs a location that answers.
my $answers = 'location = /a { internal; proxy_pass http://127.0.0.1:1; }';

# A line in each place that nginx has.
my %place = (
    main     => sub { (main => $_[0], http => '') },
    http     => sub { (main => '', http => $_[0]) },
    upstream => sub { (main => '', http => "upstream u {\nserver 127.0.0.1:1 max_conns=1;\n$_[0]\n}") },
    server   => sub { (main => '', http => "server {\n$_[0]\n$answers\n}") },
    location => sub { (main => '', http => "server {\nlocation / {\n$_[0]\n}\n$answers\n}") },
    if       => sub { (main => '', http => "server {\nlocation / {\nif (\$arg_a) {\n$_[0]\n}\n}\n}") },
    limit_except => sub { (main => '', http => "server {\nlocation / {\nlimit_except GET {\n$_[0]\n}\n}\n}") },
);

# What nginx says about a line in a place; empty if it accepts it.
sub verdict {
    my ($place, $line, $module) = @_;
    $nginx->configure(module => $module // 1, $place{$place}->($line));
    my ($accepted, $said) = $nginx->test;
    return $accepted ? '' : $said =~ /\[emerg\] (.*)/ ? $1 : $said;
}

my %syntax = map { $_ => syntaxes($documented{$_}{Syntax} =~ s/<br>|`//gr) } keys %documented;
my @values = @{ sorted(map { @{ $_->{values} } } values %syntax) };
my @options = @{ sorted(map { @{ $_->{options} } } values %syntax) };

for my $name (sort keys %documented) {
    my $row = $documented{$name};
    is_deeply sorted(keys %$row), [qw(Context Default Syntax)], "$name: has a syntax, a default and a context";
    my ($lines, $endless) = @{ $syntax{$name} }{qw(lines endless)};
    my %allowed = map { $_ => 1 } words_of($row->{Context});

    # The syntax, where it is allowed.
    for my $place (sort keys %allowed) {
        is verdict($place, $_), '', "$name: in $place: $_" for @$lines;
    }

    # What other directives have and this one has not, too few words, and too many.
    my ($where) = sort keys %allowed;
    my @by_length = sort { split(' ', $a) <=> split(' ', $b) } @$lines;
    my ($shortest, $longest) = @by_length[0, -1];
    my %has = map { $_ => 1 } map { @{ $syntax{$name}{$_} } } qw(values options);
    my @foreign = map { "$name $_;" } grep { !$has{$_} && /\D/ } @values;
    push @foreign, map { $shortest =~ s/;$/' ' . filled($_, 0) . ';'/er } grep { !$has{$_} } @options;
    is_deeply [grep { verdict($where, $_) eq '' } @foreign], [], "$name: it takes nothing else" unless $endless;
    isnt verdict($where, $shortest =~ s/ ?[^ ]+;$/;/r), '', "$name: nothing can be left out" if $shortest =~ / /;
    isnt verdict($where, $longest =~ s/;$/ surplus;/r), '', "$name: nothing can be added" unless $endless;

    # Elsewhere a directive of this name is nginx's own, or there is none.
    for my $place (grep { !$allowed{$_} } sort keys %place) {
        my $said = verdict($place, $shortest);
        if ($said eq '') {
            is verdict($place, $shortest, 0), '', "$name: in $place it is nginx's own";
        }
        else {
            like $said, qr/directive is not allowed here/, "$name: not in $place";
        }
    }
}

# The words that are meant literally are those that the sources compare with.
my @in_code = qw(on off);
for my $text (map { source($_) } qw(directive.rs directive/http2.rs reuse/stale.rs auth/directives.rs)) {
    push @in_code, $text =~ /\bb"(\w+)" => /g, $text =~ /strip_prefix\(b"(\w+)="\)/g;
}
is_deeply sorted(@values, map { s/=.*//r } @options), sorted(@in_code), 'all values and parameters are documented, and no others';

# Defaults: the value in the source, in milliseconds or bytes. What has none is empty.
my $conf = source('ffi/state/srv_conf.rs');
my $auth = source('ffi/auth/conf.rs');
my $values = source('directive.rs');
sub found { my ($text, $pattern) = @_; my @found = $text =~ $pattern or die "not found: $pattern\n"; return map { tr/_//dr } @found }
my %default = (
    keepalive => [found($values, qr/DEFAULT_SINCE_1_29_7: Keepalive = Keepalive \{ connections: (\d+), (local): true/)],
    keepalive_requests => [found($conf, qr/self\.requests == UNSET_NUMBER \{ (\w+) \}/)],
    keepalive_time => [found($conf, qr/\btime: or\(self\.time, (\w+)\)/)],
    keepalive_timeout => [found($conf, qr/\btimeout: or\(self\.timeout, (\w+)\)/)],
    keepalive_drain => [map { /(\d+) << 10/ ? $1 * 1024 : $_ } found($values, qr/Self \{ size: (.*?), timeout: (\w+) \}/)],
    keepalive_check => [map { $_ eq '!=' ? 'on' : 'off' } found($conf, qr/self\.check (\S+) 0/)],
    keepalive_hint => [map { $_ eq 'true' ? 'learn' : $_ eq 'Share' ? () : $_ }
        reverse found($values, qr/Self \{ margin: Some\(Margin::(\w+)\), learns: (true) \}/)],
    keepalive_stale_retry => [map { lc } found(source('reuse/stale.rs'), qr/#\[default\]\s+(\w+)/)],
    keepalive_stale_fails => [map { $_ eq '==' ? 'off' : 'on' } found($conf, qr/self\.stale_fails (\S+) 1/)],
    http2 => [map { lc } found(source('directive/http2.rs'), qr/#\[default\]\s+(\w+)/)],
    keepalive_handover => [map { $_ eq '!=' ? 'on' : 'off' } found($conf, qr/UNSET_NUMBER => http\.handover (\S+) 0/)],
    auth_subrequest => ['off'],
    auth_subrequest_pass_status => [split /, /, join '', found(source('auth/directives.rs'), qr/PASS_STATUS: &\[u16\] = &\[(.*?)\]/)],
    auth_subrequest_pass_cookies => [map { $_ ? 'on' : 'off' } found($auth, qr/\(UNSET_FLAG, UNSET_FLAG\) => (\d),/)],
    auth_subrequest_error => [found($auth, qr/on_error\.unwrap_or\(OnError::Status\((\d+)\)\)/)],
    map { ("auth_subrequest_$_" => [found($auth, qr/conf\.$_ = or\(conf\.$_, prev\.$_, (\w+),/)]) } qw(timeout pass_body body),
);

my %unit = (ms => 1, s => 1000, m => 60_000, h => 3_600_000, k => 1024);
sub plain { return $_[0] =~ s/^(?:\w+=)?(\d+)(ms|[smhk])$/$1 * $unit{$2}/er }

for my $name (sort keys %documented) {
    my ($line) = map { /^\Q$name\E (.*);$/ ? $1 : () } words_of($documented{$name}{Default});
    is_deeply [map { plain($_) } split ' ', $line // ''], $default{$name} || [], "$name: the default, " . ($line // 'none');
    my ($where) = words_of($documented{$name}{Context});
    is verdict($where, "$name $line;"), '', 'and nginx takes it' if defined $line;
}
my ($timeout, $status) = found($values, qr/timeout: timeout\.unwrap_or\((\w+)\), status: status\.unwrap_or\((\d+)\)/);
is plain('60s'), $timeout, 'queue: 60 seconds';
my ($streams, $connections) = found(source('directive/http2.rs'), qr/streams: (\d+), connections: (\d+) \}/);
my ($max_streams, $max_connections) = found(source('directive/http2.rs'), qr/MAX_STREAMS: u32 = (\w+);.*MAX_CONNECTIONS: u32 = (\w+);/s);
like section('http2'), qr/`streams`.*\($streams by default, at most $max_streams\)/s, 'http2: streams';
like section('http2'), qr/`connections`.*\($connections by default, at most $max_connections\)/s, 'http2: connections';
like section('queue'), qr/at most `timeout` \(60 seconds by default\).*gets $status, or the `status`/s, 'and the status';

# Variables.
my @offered = map { source($_) =~ /add_one\(cf, ngx_string!\("(\w+)"\)/g } qw(ffi/observe/variables.rs ffi/auth/variables.rs);
my $table = section('Variables');
is_deeply sorted($table =~ /^\| `\$(\w+)` \|/mg), sorted(@offered), 'each variable is documented, and no other';
for my $name (@offered) {
    my $line = "log_format f '\$$name';";
    is verdict('http', $line), '', "\$$name: exists";
    like verdict('http', $line, 0), qr/unknown "$name" variable/, 'and not without the module';
}
my ($row) = $table =~ /^\| `\$upstream_keepalive_status` \| (.*) \|$/m;
is_deeply sorted($row =~ /`([A-Z]+|-)`[:;]/g), sorted(source('ffi/state/notes.rs') =~ /Self::\w+ => "(.*?)"/g),
    'all values of $upstream_keepalive_status';

# Metrics and JSON, of an nginx that has something of everything.
my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
$nginx->configure(module => 1, main => '', http => <<"END");
upstream backend { server @{[ $backend->address ]} max_conns=8; keepalive 8; keepalive_requests 2; queue 10; }
upstream carried { server 127.0.0.1:1; keepalive 8; http2 on; }
upstream taught { server @{[ $backend->address(1) ]}; keepalive 8; }
upstream inert { server @{[ $backend->address ]}; keepalive 8; }
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = /auth { internal; proxy_pass http://backend; }
    location = /taught {
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_pass http://taught;
    }
    location = /closed {
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_pass http://backend;
    }
    location = /inert {
        proxy_http_version 1.1;
        proxy_set_header Connection close;
        proxy_pass http://inert;
    }
    location / {
        auth_subrequest /auth;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_pass http://backend;
    }
}
END
$nginx->start;
# The last request that a connection may serve ends it for another reason, so that there are more of these than connections.
get($port, $_) for ('/inert') x 64, ('/') x 3, ('/closed?header=Connection:close') x 8;
Keepalive::Status->new($port)->teach(taught => '/taught', requests => 5);
# What was closed is counted a moment later.
my $metrics;
wait_for { ($metrics = get($port, '/status?format=prometheus')->{body}) =~ /not_stored_total\{/ };
my $json = JSON::PP::decode_json(get($port, '/status?format=json')->{body});
$nginx->stop;

# Each metric as README has it: its type, its labels, and the values that are given for them.
my (%shown, %told);
for my $line (section('Metrics') =~ /^(\| `\w+` \|.*)$/mg) {
    my ($name, $type, $labels) = $line =~ /^\| `(\w+)` \| (\w+) \| (.*) ?\|$/ or fail "not a metric: $line";
    my %values;
    while ($labels =~ /`(\w+)`(?: \((.*?)\))?/g) { $values{$1} = sorted(words_of($2 // '')) }
    $shown{$name} = [$type, \%values];
}
for my $line (split /\n/, $metrics) {
    if ($line =~ /^# TYPE (\w+) (\w+)$/) { $told{$1} = [$2, {}] }
    next if $line =~ /^#/;
    my ($sample, $list) = $line =~ /^(\w+)(?:\{(.*)\})? \S+$/ or fail "not a sample: $line";
    my $name = $told{$sample} ? $sample : $sample =~ s/_(?:bucket|sum|count)$//r;
    while (($list // '') =~ /(\w+)="((?:[^"\\]|\\.)*)"/g) {
        my ($label, $value) = ($1, $2);
        my $values = $told{$name}[1]{$label} //= [];
        @$values = @{ sorted(@$values, $value) } if $label =~ /^(?:state|outcome)$/;
    }
    # What all histograms have.
    delete $told{$name}[1]{le} if $told{$name}[0] eq 'histogram';
}
is_deeply \%shown, \%told, 'each metric is documented with its type and labels, and no other';
cmp_ok scalar(keys %told), '>', 10, 'there are metrics: ' . keys %told;

# All paths of names; those that stand for any name are one.
sub paths {
    my ($value, $path) = @_;
    # Most upstreams have none.
    return if !defined $value && $path =~ m{/hint$};
    return map { paths($_, "$path\[]") } @$value if ref $value eq 'ARRAY';
    return $path unless ref $value eq 'HASH';
    my $any = $path =~ m{(?:^/upstreams|^/auth|/closed|/not_stored|/dropped|/buckets)$};
    return map { paths($value->{$_}, "$path/" . ($any ? '*' : $_)) } keys %$value;
}
is_deeply sorted(paths(json_shown(), '')), sorted(paths($json, '')), 'each field of the JSON is documented, and no other';

my $upstream = $json->{upstreams}{backend};
is_deeply sorted(reasons($_)), sorted(keys %{ $upstream->{$_} }), "$_: all reasons" for qw(closed not_stored);
is_deeply sorted(reasons('dropped')), sorted(keys %{ $upstream->{handover}{dropped} }), 'dropped: all reasons';

done_testing;
