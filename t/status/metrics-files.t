# nginx-conf/: the dashboard, the alert rules and the log format use only existing names, and Prometheus and nginx accept them.
#
# about: status

use strict;
use warnings;

use CPAN::Meta::YAML;
use Cwd qw(abs_path);
use JSON::PP ();
use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();

my $folder = abs_path('nginx-conf');
my $dashboard_file = "$folder/grafana-dashboard.json";
my $rules_file = "$folder/prometheus-alerts.yml";
my $cases_file = "$folder/prometheus-alerts-test.yml";

# What a Prometheus says that it would like to have.
my $accept = 'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,'
    . 'text/plain;version=0.0.4;q=0.5,*/*;q=0.1';

my $backend = Keepalive::Backend->start(listen => [('127.0.0.1:0') x 2]);
my $port = free_port();
my $nginx = Keepalive::Nginx->new(http => <<"END");
include $folder/log-format.conf;
upstream backend {
    zone backend 64k;
    server @{[ $backend->address ]} max_conns=8;
    keepalive 8;
    keepalive_requests 5;
    queue 10;
}
upstream carried { server 127.0.0.1:1; keepalive 8; http2 on; }
upstream closed { server @{[ $backend->address(1) ]}; keepalive 8; }
upstream taught { server @{[ $backend->address(1) ]}; keepalive 8; }
$proxy_keepalive
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = /auth { internal; proxy_pass http://backend; }
    location / { auth_subrequest /auth; proxy_pass http://backend; access_log logs/access.log upstream_keepalive; }
    location = /taught { proxy_pass http://taught; }
    location = /closed { proxy_pass http://closed/?header=Connection:close; }
    location = /open { proxy_pass http://backend; access_log logs/access.log upstream_keepalive; }
}
END

sub content_of {
    my ($path) = @_;
    open my $in, '<:raw', $path or die "$path: $!";
    local $/;
    return <$in> // '';
}

# Ends this file, and no other.
sub give_up {
    diag @_;
    done_testing;
    exit;
}

# The log format.
my ($accepted, $said) = $nginx->test;
ok $accepted, 'log-format.conf: accepted' or give_up($said);
unlike $said, qr/\[(?:warn|notice)\]/, 'without a word';
$nginx->start;
get($port, '/open', headers => { Referer => 'http://here/' }) for 1 .. 2;
my $access_log = $nginx->dir . '/logs/access.log';
wait_for { content_of($access_log) =~ tr/\n// == 2 };
my @lines = split /\n/, content_of($access_log);
is scalar(@lines), 2, 'one line for each request' or diag join "\n", @lines;
my ($address, $number) = (quotemeta $backend->address, '\d+\.\d{3}');
like $lines[1], qr{^127\.0\.0\.1 - - \[[^]]+\] "GET /open HTTP/1\.1" 200 \d+ "http://here/" "-" },
    'it begins as in the format "combined"';
like $lines[1], qr{ time=$number upstream="$address" "200" pool="HIT" reused="1" requests="2" queue="0\.000"},
    'goes on with what the pool did';
like $lines[1], qr{ connect="$number" header="$number" response="$number" auth="-" "-"$}, 'and ends with the times';
get($port, '/');
wait_for { content_of($access_log) =~ tr/\n// == 3 };
like content_of($access_log), qr{ auth="20\d" "$number"\n\z}, 'also that of the authorisation';

# Some of everything, so that each metric has a value: the rest of a connection's requests, an answer after which it is
# closed, and decisions.
get($port, $_) for ('/closed') x 50, ('/open') x 4, '/open?header=Connection:close', '/', '/';
Keepalive::Status->new($port)->teach(taught => '/taught', requests => 5);

my $status = get($port, '/status?format=prometheus');
is $status->{status}, 200, 'the status for Prometheus';
my $as_asked = get($port, '/status', headers => { Accept => $accept });
is $as_asked->{headers}{'content-type'}, $status->{headers}{'content-type'}, 'a Prometheus gets it without a format too';

# What there is: %type has each metric; %labels the labels of each name that a sample has (with _bucket and so on), and
# their values.
my (%type, %labels);
for my $line (split /\n/, $status->{body}) {
    $type{$1} = $2 if $line =~ /^# TYPE (\S+) (\S+)$/;
    next if $line =~ /^(?:#|$)/;
    my ($sample, $list) = $line =~ /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$/ or fail "not a sample: $line";
    $labels{$sample} ||= {};
    $labels{$sample}{$1}{$2} = 1 while ($list // '') =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;
}
my %has_sample = map { metric_of($_) => 1 } keys %labels;
is_deeply [sort keys %has_sample], [sort keys %type], 'each metric has a type and a sample: ' . keys %type;

# Reasons are there only once they have occurred; the JSON has all of them.
my $json = JSON::PP::decode_json(get($port, '/status?format=json')->{body});
for my $reasons (qw(closed not_stored)) {
    my $all = $json->{upstreams}{backend}{$reasons};
    $labels{"nginx_upstream_keepalive_${reasons}_total"}{reason}{$_} = 1 for keys %$all;
}
$nginx->stop;

# What Prometheus itself adds.
my %added = (up => {});
my %known_label = map { $_ => 1 } qw(job instance), map { keys %$_ } values %labels;

# The metric that a sample is of: histograms have three kinds of samples.
sub metric_of {
    my ($sample) = @_;
    my ($metric) = $sample =~ /^(.*)_(?:bucket|sum|count)$/;
    return defined $metric && ($type{$metric} // '') eq 'histogram' ? $metric : $sample;
}

# What an expression has that does not exist. The names of the samples that it uses come into %$used.
sub unknown_in {
    my ($expression, $used) = @_;
    my $name = qr/[a-zA-Z_:][\w:]*/;
    my @unknown;
    while ($expression =~ /($name)\s*\{([^{}]*)\}/g) {
        my ($sample, $list) = ($1, $2);
        while ($list =~ /(\w+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"/g) {
            my ($label, $value) = ($1, $2);
            my $values = $labels{$sample}{$label};
            push @unknown, "$sample\{$label}" unless $values || $label =~ /^(?:job|instance)$/;
            next unless $label =~ /^(?:state|reason|outcome)$/;
            push @unknown, "$label $_" for grep { !$values->{$_} } split /\|/, $value;
        }
    }
    s/\{[^{}]*\}//g, s/\[[^]]*\]//g, s/\boffset\s+\w+//g for $expression;
    while ($expression =~ s/\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)//) {
        push @unknown, map { "label $_" } grep { !$known_label{$_} } $1 =~ /\w+/g;
    }
    # What is left are functions, operators, numbers and samples.
    for my $word ($expression =~ /(?<![\w.])($name)\b(?!\s*\()/g) {
        next if $word =~ /^(?:and|or|unless|bool)$/;
        $used->{$word} = 1;
        push @unknown, $word unless $labels{$word} || $added{$word};
    }
    return @unknown;
}

is_deeply [unknown_in('sum by (upstream, foe) (rate(nginx_upstream_keepalive_opened[5m] offset 1d)) / on (job) '
    . 'nginx_upstream_keepalive_closed_total{friend="a,b",reason=~"evicted|bored"} > 0.5 or vector(0)', {})],
    ['nginx_upstream_keepalive_closed_total{friend}', 'reason bored', 'label foe', 'nginx_upstream_keepalive_opened'],
    'what does not exist is found';

# The dashboard.
my $dashboard = eval { JSON::PP::decode_json(content_of($dashboard_file)) };
ok $dashboard, 'grafana-dashboard.json is JSON' or give_up($@);
my @panels = map { ($_, @{ $_->{panels} || [] }) } @{ $dashboard->{panels} };
my @graphs = grep { $_->{type} ne 'row' } @panels;
my (%ids, %shown);
$ids{ $_->{id} }++ for @panels;
is_deeply [grep { $ids{$_} > 1 } sort keys %ids], [], 'no two panels have the same id';
is_deeply [map { $_->{title} } grep { !is_on_page($_->{gridPos}) } @panels], [], 'all are on the page';
is_deeply [overlaps(@panels)], [], 'no two overlap';

# A page has 24 columns, and as many lines as are needed.
sub is_on_page {
    my ($at) = @_;
    return $at->{x} >= 0 && $at->{y} >= 0 && $at->{w} > 0 && $at->{h} > 0 && $at->{x} + $at->{w} <= 24;
}

sub overlaps {
    my @left = @_;
    my @pairs;
    while (my $one = shift @left) {
        my $p = $one->{gridPos};
        for my $other (@left) {
            my $q = $other->{gridPos};
            push @pairs, "$one->{title} / $other->{title}"
                if $p->{x} < $q->{x} + $q->{w} && $q->{x} < $p->{x} + $p->{w}
                && $p->{y} < $q->{y} + $q->{h} && $q->{y} < $p->{y} + $p->{h};
        }
    }
    return @pairs;
}

for my $panel (@graphs) {
    my $title = $panel->{title};
    ok length $panel->{description} && length $panel->{fieldConfig}{defaults}{unit}, "$title: a description and a unit";
    is_deeply [map { unknown_in($_->{expr}, \%shown) } @{ $panel->{targets} }], [], 'it shows what exists';
    my @legend = map { ($_->{legendFormat} // '') =~ /\{\{(\w+)\}\}/g } @{ $panel->{targets} };
    is_deeply [grep { !$known_label{$_} } @legend], [], 'with labels that exist';
}
my %is_shown = map { metric_of($_) => 1 } keys %shown;
is_deeply [grep { !$is_shown{$_} } sort keys %type], [], 'each metric is shown somewhere';

my @variables = @{ $dashboard->{templating}{list} };
my %variable = map { $_->{name} => 1 } @variables;
ok $variable{upstream} && $variable{server}, 'one can choose upstreams and servers';
for my $query (map { $_->{query}{query} } @variables) {
    my ($series, $label) = $query =~ /^label_values\((.*),\s*(\w+)\)$/;
    is_deeply [unknown_in($series // '?', {}), grep { !$known_label{$_} } $label // '?'], [], "$query: exists";
}
my @expressions = map { $_->{expr} } map { @{ $_->{targets} } } @graphs;
my @chosen = map { /\$(\w+)/g } @expressions, map { $_->{query}{query} } @variables;
is_deeply [grep { !$variable{$_} && !/^__(?:rate_interval|range)$/ } @chosen], [], 'no other variable is used';
my @sources = map { $_->{datasource} || () } @panels, @variables, map { @{ $_->{targets} || [] } } @panels;
my $asked = $dashboard->{__inputs}[0]{name};
is_deeply [grep { $_->{uid} ne "\${$asked}" } @sources], [], 'all comes from the one source that is asked for';

# The alert rules.
my @rules = map { @{ $_->{rules} } } @{ CPAN::Meta::YAML->read($rules_file)->[0]{groups} };
my @cases = @{ CPAN::Meta::YAML->read($cases_file)->[0]{tests} };
my @fired = map { $_->{labels} =~ /alertname="(\w+)"/ } map { @{ $_->{exp_samples} || [] } }
    map { @{ $_->{promql_expr_test} } } @cases;
my %fires = map { $_ => 1 } @fired;
my %in_normal_day = map { $_->{series} =~ /^(\w+)/ ? ($1 => 1) : () } @{ $cases[0]{input_series} };
for my $rule (@rules) {
    my ($alert, $notes) = ($rule->{alert}, $rule->{annotations});
    my %watched;
    is_deeply [unknown_in($rule->{expr}, \%watched)], [], "$alert: watches what exists";
    is_deeply [grep { !length($notes->{$_} // '') } qw(summary description action)], [], 'says what is wrong, and what to do';
    is_deeply [grep { !$known_label{$_} } map { /\$labels\.(\w+)/g } values %$notes], [], 'with labels that exist';
    ok $fires{$alert}, 'has a test in which it fires';
    is_deeply [grep { !$in_normal_day{$_} } sort keys %watched], [], 'and all that it watches is there on a normal day';
}
cmp_ok scalar(@rules), '>', 10, 'there are rules: ' . @rules;

# Prometheus' own program for such files.
sub find_promtool {
    return $ENV{TEST_NGINX_PROMTOOL} if length($ENV{TEST_NGINX_PROMTOOL} // '');
    return (grep { -x } map { "$_/promtool" } split /:/, $ENV{PATH})[0];
}

my $promtool = find_promtool();

# The status with which it exits, and all that it says; the first argument is the file that it reads as its input.
sub promtool {
    my ($input, @arguments) = @_;
    open my $pipe, '-|', 'sh', '-c', 'exec "$@" 2>&1 <"$0"', $input, $promtool, @arguments or die "sh: $!";
    my $output = do { local $/; <$pipe> } // '';
    close $pipe;
    return ($? >> 8, $output);
}

sub written {
    my ($file, $content) = @_;
    my $path = work_dir() . "/$file";
    open my $out, '>:raw', $path or die "$path: $!";
    print $out $content;
    close $out or die "$path: $!";
    return $path;
}

SKIP: {
    skip 'needs promtool (Debian package prometheus), in PATH or in TEST_NGINX_PROMTOOL', 4 unless $promtool;

    my ($code, $output) = promtool(written('metrics.txt', $status->{body}), qw(check metrics));
    is "$code $output", '0 ', 'promtool has nothing to say about the metrics';

    ($code, $output) = promtool('/dev/null', qw(check rules), $rules_file);
    is $code, 0, 'it takes the rules' or diag $output;

    ($code, $output) = promtool('/dev/null', qw(test rules), $cases_file);
    is $code, 0, 'their tests pass' or diag $output;

    # It reads rules and no dashboards, so the queries become rules.
    s/\[\$\w+\]/[5m]/g for @expressions;
    my @records = map { { record => "query:$_", expr => $expressions[$_] } } 0 .. $#expressions;
    my $as_rules = JSON::PP::encode_json({ groups => [{ name => 'dashboard', rules => \@records }] });
    ($code, $output) = promtool('/dev/null', qw(check rules), written('dashboard.yml', $as_rules));
    is $code, 0, 'and it can read the queries of the dashboard' or diag $output;
}

done_testing;
