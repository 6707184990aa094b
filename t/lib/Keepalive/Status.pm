package Keepalive::Status;

# The counters of keepalive_status, as data: compared with expected values, and with each other.

use strict;
use warnings;

use List::Util qw(max sum0);
use Test::More;

use JSON::PP ();

use Keepalive::Client;
use Keepalive::Setup;

my @COUNTS = qw(opened reused given taken stale repeats);

# Keepalive::Status->new($port, path => '/status')
sub new {
    my ($class, $port, %options) = @_;
    return bless { port => $port, path => '/status', last => {}, %options }, $class;
}

# The body in one of the formats.
sub text {
    my ($self, $format) = @_;
    my $answer = get($self->{port}, "$self->{path}?format=$format");
    die "$self->{path}?format=$format: status $answer->{status}\n" if $answer->{status} != 200 || !$answer->{complete};
    return $answer->{body};
}

# The decoded JSON.
sub json { return JSON::PP::decode_json($_[0]->text('json')) }

# The samples of Prometheus' format: { 'name{a="x",b="y"}' => number }, labels in alphabetical order.
sub metrics { return samples($_[0]->text('prometheus')) }

sub samples {
    my ($text) = @_;
    my %samples;
    for my $line (grep { !/^#/ } split /\n/, $text) {
        my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or die "no sample: $line\n";
        my %labels;
        $labels{$1} = $2 while ($labels // '') =~ /\G(\w+)="((?:[^"\\]|\\.)*)",?/gc;
        my $sample = sample($name, %labels);
        die "twice: $line\n" if exists $samples{$sample};
        $samples{$sample} = $value;
    }
    return \%samples;
}

# A sample's key; values of labels are escaped already.
sub sample {
    my ($name, %labels) = @_;
    return $name . (%labels ? '{' . join(',', map { qq($_="$labels{$_}") } sort keys %labels) . '}' : '');
}

# The samples that Prometheus' format must have for this JSON.
sub as_metrics {
    my ($json) = @_;
    my %samples = (nginx_upstream_keepalive_workers => $json->{workers});
    my $add = sub { my ($value, $name, @labels) = @_; $samples{ sample("nginx_$name", @labels) } = $value };
    for my $name (keys %{ $json->{upstreams} }) {
        my $upstream = $json->{upstreams}{$name};
        my @of = (upstream => escaped($name));
        my $configured = grep { $_->{name} ne '' } @{ $upstream->{peers} };
        $add->($upstream->{limit} * ($upstream->{per_server} ? max(1, $configured) : 1), 'upstream_keepalive_limit', @of);
        $add->(1, 'upstream_keepalive_hint', @of, cause => $upstream->{hint}{cause}) if $upstream->{hint};
        # Not shown for removed servers.
        for my $peer (grep { $_->{server} ne 'gone' } @{ $upstream->{peers} }) {
            my @server = (@of, server => escaped($peer->{server}));
            $add->($peer->{$_}, 'upstream_keepalive_connections', @server, state => $_) for qw(idle active draining);
            $add->($peer->{$_}, "upstream_keepalive_${_}_total", @server) for 'requests', @COUNTS;
            # What is not known is not listed.
            my $learned = $peer->{learned};
            for my $what (grep { defined $learned->{$_} } keys %$learned) {
                $add->($learned->{$what}, 'upstream_keepalive_learned_' . ($what =~ s/timeout$/timeout_seconds/r), @server);
            }
            for my $kind (qw(closed not_stored)) {
                # A reason is listed once it has occurred.
                $add->($peer->{$kind}{$_}, "upstream_keepalive_${kind}_total", @server, reason => $_)
                    for grep { $peer->{$kind}{$_} } keys %{ $peer->{$kind} };
            }
        }
        my $handover = $upstream->{handover};
        $add->($handover->{in_transit}, 'upstream_keepalive_in_transit', @of);
        $add->($handover->{$_}, "upstream_keepalive_${_}_total", @of) for qw(asked answered);
        $add->($handover->{dropped}{$_}, 'upstream_keepalive_dropped_total', @of, reason => $_) for keys %{ $handover->{dropped} };
        my $queue = $upstream->{queue} or next;
        $add->($queue->{size}, 'upstream_queue_size', @of);
        $add->($queue->{max_size}, 'upstream_queue_limit', @of);
        $add->($queue->{$_}, "upstream_queue_${_}_total", @of) for qw(requests overflows timeouts);
        add_histogram($add, $queue->{wait}, 'upstream_queue_wait_seconds', @of);
    }
    for my $uri (keys %{ $json->{auth} }) {
        my @of = (uri => escaped($uri));
        $add->($json->{auth}{$uri}{$_}, 'auth_subrequest_decisions_total', @of, outcome => $_)
            for qw(allowed denied failed timed_out failed_open);
        add_histogram($add, $json->{auth}{$uri}{time}, 'auth_subrequest_duration_seconds', @of);
    }
    return \%samples;
}

sub add_histogram {
    my ($add, $times, $name, @of) = @_;
    $add->($times->{buckets}{$_}, "${name}_bucket", @of, le => $_) for keys %{ $times->{buckets} };
    $add->($times->{$_}, "${name}_$_", @of) for qw(count sum);
}

sub escaped { my ($value) = @_; $value =~ s/([\\"])/\\$1/g; $value =~ s/\n/\\n/g; return $value }

# The counters of an upstream, or of one of its servers, that are not zero: 'opened 2, reused 5, idle 1, closed timeout 1'.
# They have this order; reasons are in alphabetical order.
sub told {
    my ($numbers) = @_;
    return 'nothing' unless $numbers;
    my %all = (%$numbers, idle => $numbers->{idle} // $numbers->{keepalive});
    my @told = map { $all{$_} ? "$_ $all{$_}" : () } qw(opened reused given taken idle active draining stale repeats);
    for my $kind (qw(closed not_stored)) {
        push @told, map { $all{$kind}{$_} ? "$kind $_ $all{$kind}{$_}" : () } sort keys %{ $all{$kind} };
    }
    return join ', ', @told;
}

# The counters of an upstream, or of its server at an address, as text.
sub numbers {
    my ($self, $upstream, $server) = @_;
    my $found = $self->json->{upstreams}{$upstream};
    ($found) = grep { $_->{server} eq $server } @{ $found->{peers} } if $found && defined $server;
    return told($found);
}

# The server of an upstream closes connections until nginx knows its idle time of 200 milliseconds, and then, if `requests` is
# given, that it closes connections after so many. `path` leads to the upstream, which has no other server.
sub teach {
    my ($self, $upstream, $path, %options) = @_;
    my $known = sub { $self->json->{upstreams}{$upstream}{peers}[0]{learned}{ $_[0] } };
    for (1 .. 20) {
        last if $known->('idle_timeout');
        my $closed = $self->closed_by_servers($upstream);
        get($self->{port}, "$path?idle=200");
        # A connection that watches is not closed yet, or nginx has closed it.
        wait_for { $self->closed_by_servers($upstream) > $closed };
    }
    my $number = $options{requests} or return;
    for (1 .. 20 * $number) {
        last if $known->('requests');
        get($self->{port}, "$path?fault=close&from=$number");
    }
}

sub closed_by_servers { my ($self, $upstream) = @_; return $self->json->{upstreams}{$upstream}{closed}{server_closed} }

# nginx closes connections of an upstream before the server does, which was taught. Of several idle ones, one stays to watch. A
# machine that is busy may be too late for the others.
sub apply_lesson {
    my ($self, $upstream, $path) = @_;
    my $closed = sub { $self->json->{upstreams}{$upstream}{closed} };
    for (1 .. 20) {
        my $before = $closed->()->{server_closed};
        $_->finish for map { begin($self->{port}, "$path?idle=200&delay=20") } 1 .. 3;
        wait_for { $closed->()->{learned} || $closed->()->{server_closed} >= $before + 3 };
        last if $closed->()->{learned};
    }
}

# Tests that the counters become these: workers update them a moment after the client has its answer. They are remembered for
# `still`.
sub expect {
    my ($self, $upstream, $expected, $title, $server) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $numbers;
    wait_for { ($numbers = $self->numbers($upstream, $server)) eq $expected };
    $self->{last}{ join "\0", $upstream, $server // () } = $numbers;
    return is $numbers, $expected, $title;
}

# Tests that all counters are the same as in the last test, so that nothing was counted late or twice.
sub still {
    my ($self, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %now = map { $_ => $self->numbers(split /\0/) } keys %{ $self->{last} };
    return is_deeply \%now, $self->{last}, $title;
}

# The contradictions in the JSON of an idle nginx, a line each: connections that are missing, and wrong sums.
sub contradictions {
    my ($json) = @_;
    my @found;
    for my $name (sort keys %{ $json->{upstreams} }) {
        my $upstream = $json->{upstreams}{$name};
        my $is = sub { my ($what, $got, $expected) = @_; push @found, "$name: $what $got, not $expected" if $got != $expected };
        for my $peer (@{ $upstream->{peers} }) {
            my $accounted = sum0 @$peer{qw(idle active draining)}, map { values %$_ } @$peer{qw(closed not_stored)};
            $is->("$peer->{server} opened and taken", $peer->{opened} + $peer->{taken}, $accounted + $peer->{given});
            $is->("$peer->{server} requests", $peer->{requests}, $peer->{opened} + $peer->{reused});
        }
        my $sum = sub { my ($of) = @_; return sum0 map { $of->($_) } @{ $upstream->{peers} } };
        $is->('keepalive', $upstream->{keepalive}, $sum->(sub { $_[0]{idle} }));
        for my $what (qw(active draining requests), @COUNTS) {
            $is->($what, $upstream->{$what}, $sum->(sub { $_[0]{$what} }));
        }
        for my $kind (qw(closed not_stored)) {
            for my $reason (sort keys %{ $upstream->{$kind} }) {
                $is->("$kind $reason", $upstream->{$kind}{$reason}, $sum->(sub { $_[0]{$kind}{$reason} }));
            }
        }
        my $handover = $upstream->{handover};
        my $arrived = sum0 $upstream->{taken}, values %{ $handover->{dropped} };
        $is->('in transit', $handover->{in_transit}, max(0, $upstream->{given} - $arrived));
        my $queue = $upstream->{queue} or next;
        $is->('waits that have ended or last', $queue->{wait}{count} + $queue->{size}, $queue->{requests});
        push @found, map { "$name: wait $_" } impossible($queue->{wait});
    }
    for my $uri (sort keys %{ $json->{auth} }) {
        my $auth = $json->{auth}{$uri};
        my $decisions = sum0 @$auth{qw(allowed denied failed timed_out failed_open)};
        push @found, "$uri: time of $auth->{time}{count}, not $decisions" if $auth->{time}{count} != $decisions;
        push @found, map { "$uri: time $_" } impossible($auth->{time});
    }
    return @found;
}

# What is wrong with a histogram.
sub impossible {
    my ($times) = @_;
    my ($before, $least, $most, $bound, @found) = (0, 0, 0, 0);
    for my $name (sort { bound($a) <=> bound($b) } keys %{ $times->{buckets} }) {
        my $number = $times->{buckets}{$name};
        push @found, "$name: $number after $before" if $number < $before;
        $least += ($number - $before) * $bound;
        $most += ($number - $before) * bound($name) if $number > $before;
        ($before, $bound) = ($number, bound($name));
    }
    push @found, "+Inf: $before of $times->{count}" if $before != $times->{count};
    # Times are counted in milliseconds, and a bound is the last one of its bucket.
    push @found, "sum $times->{sum}, not $least to $most" if $times->{sum} < $least || $times->{sum} > $most;
    return @found;
}

sub bound { return $_[0] eq '+Inf' ? 9**9**9 : $_[0] }

# Tests that there are no contradictions, and that both formats agree. No request may be running.
sub consistent {
    my ($self, $title) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($json, $metrics, @found);
    # A worker may still be updating them.
    wait_for {
        ($json, $metrics) = ($self->json, $self->metrics);
        my $expected = as_metrics($json);
        @found = contradictions($json);
        for my $sample (sort keys %{ { %$expected, %$metrics } }) {
            my ($here, $there) = map { $_->{$sample} // 'missing' } $metrics, $expected;
            push @found, "$sample: Prometheus $here, JSON $there"
                unless $here eq $there || (!grep { /missing/ } $here, $there) && abs($here - $there) < 1e-6;
        }
        !@found;
    };
    return is join("\n", @found), '', $title;
}

1;
