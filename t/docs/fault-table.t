# The tables of t/README.md: each file that they name is there, with the title that they tell, and each file of t/ is named.

use strict;
use warnings;

use Test::More;

sub text_of {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!";
    local $/;
    return <$in>;
}

my @rows = map { s{`t/}{`}gr } grep { /^\|/ } split /\n/, text_of('t/README.md');
my (%named, %groups, $titles);
for my $row (@rows) {
    $groups{$1} = $row if $row =~ /^\| (F\d+) \|/;
    $named{$_} = 1 for $row =~ m{`([\w./-]+\.t)`}g;
    while ($row =~ m{`([\w./-]+\.t)`((?: \*[^*]+\*)+)}g) {
        my ($file, $told) = ($1, $2);
        my $text = -e "t/$file" ? text_of("t/$file") : '';
        for my $title ($told =~ /\*([^*]+)\*/g) {
            $titles++;
            ok index($text, $title) >= 0, "$file: $title";
        }
    }
}
cmp_ok $titles, '>', 100, 'titles are told';
is join(' ', grep { !-e "t/$_" } sort keys %named), '', 'all files that are named are there';
is join(' ', grep { !$named{$_} } map { m{^t/(.*)} } sort glob 't/*/*.t'), '', 'all files that are there are named';
is join(' ', grep { !$groups{"F$_"} } 1 .. 20), '', 'no group of faults is left out';
done_testing;
