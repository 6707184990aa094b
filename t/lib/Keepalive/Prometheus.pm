package Keepalive::Prometheus;

# A strict checker of Prometheus' text format.

use strict;
use warnings;

use Encode ();
use Exporter 'import';

our @EXPORT = qw(wrong_in);

# What is wrong with a text in Prometheus' exposition format 0.0.4. It is read more strictly than Prometheus does: a family
# has one HELP and one TYPE, in this order, and then all of its samples.
sub wrong_in {
    my ($text) = @_;
    my ($family, $type, %types, %seen, %buckets, %last, %totals, @wrong);
    push @wrong, 'no line feed at the end' if $text !~ /\n\z/;
    push @wrong, 'not in UTF-8' if !defined eval { Encode::decode('UTF-8', my $copy = $text, Encode::FB_CROAK) };
    my $is_next_type = 0;
    for my $line (split /\n/, $text) {
        if ($line =~ /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (?:[^\\]|\\[\\n])+$/) {
            push @wrong, "a second time: $line" if exists $types{$1};
            push @wrong, "no TYPE before: $line" if $is_next_type;
            ($family, $is_next_type) = ($1, 1);
            $types{$family} = undef;
            next;
        }
        if ($is_next_type) {
            ($type) = $line =~ /^# TYPE \Q$family\E (counter|gauge|histogram)$/ or push @wrong, "no TYPE: $line";
            $types{$family} = $type //= 'none';
            $is_next_type = 0;
            push @wrong, "a counter that does not end in _total, or something else that does: $family"
                if ($type eq 'counter') != ($family =~ /_total$/ ? 1 : 0);
            next;
        }
        my ($name, undef, $labels, $value) = $line =~ /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (\d+(?:\.\d+)?)$/
            or push(@wrong, "no sample: $line"), next;
        my ($of, $suffix) = ($name, '');
        ($of, $suffix) = ($1, $2) if $type eq 'histogram' && $name =~ /^(.*)_(bucket|sum|count)$/;
        push @wrong, "not of $family: $line" if $of ne $family || $type eq 'histogram' && $suffix eq '';
        push @wrong, "a part of one: $line" if $value =~ /\./ && $suffix ne 'sum' && !($type eq 'gauge' && $family =~ /_seconds$/);
        my %labels;
        while (($labels // '') =~ /\G(?:^|,)([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"/gc) {
            push @wrong, "$1 twice: $line" if exists $labels{$1};
            $labels{$1} = $2;
        }
        push @wrong, "labels: $line" if (pos($labels) // 0) != length($labels // '');
        my $key = join "\0", $name, map { $_, $labels{$_} } sort keys %labels;
        push @wrong, "twice: $line" if $seen{$key}++;
        next if $suffix eq '';
        my $le = delete $labels{le};
        push @wrong, "le: $line" if defined $le != ($suffix eq 'bucket');
        my $histogram = join "\0", $family, map { $_, $labels{$_} } sort keys %labels;
        if ($suffix eq 'bucket') {
            push @wrong, "not in order: $line" if bound($le) <= bound($last{$histogram} // '-1');
            push @wrong, "not cumulative: $line" if $value < ($buckets{$histogram} // 0);
            ($last{$histogram}, $buckets{$histogram}) = ($le, $value);
        }
        $totals{$histogram}{$suffix} = $value;
    }
    for my $histogram (keys %totals) {
        my %total = %{ $totals{$histogram} };
        push @wrong, "no bucket for all of $histogram" if ($last{$histogram} // '') ne '+Inf';
        push @wrong, "a sum or count is missing of $histogram" if grep { !defined $total{$_} } qw(sum count);
        push @wrong, "+Inf is not the count of $histogram" if $total{count} != $buckets{$histogram};
    }
    push @wrong, "no TYPE: $_" for grep { !defined $types{$_} } keys %types;
    return @wrong;
}

sub bound { return $_[0] eq '+Inf' ? 9**9**9 : $_[0] }

1;
