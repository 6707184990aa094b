# A harness for prove that also writes what it counted to the file named in PROVE_TOTALS: a line "passed failed skipped
# name" for each file.
package Totals;

use strict;
use warnings;
use parent 'TAP::Harness';

sub summary {
    my ($self, $aggregate) = @_;
    $self->SUPER::summary($aggregate);

    open my $out, '>', $ENV{PROVE_TOTALS} or die "cannot write $ENV{PROVE_TOTALS}: $!";
    for my $name ($aggregate->descriptions) {
        my ($parser) = $aggregate->parsers($name);
        my $skipped = scalar $parser->skipped;
        my $passed  = scalar($parser->passed) - $skipped;
        my $failed  = scalar $parser->failed;
        # A file that skips all has no tests, and one that dies may have no failed ones; each still counts.
        $skipped++ if defined $parser->skip_all;
        $failed++  if $parser->has_problems && !$failed;
        print {$out} "$passed $failed $skipped $name\n";
    }
    close $out or die "cannot write $ENV{PROVE_TOTALS}: $!";
}

1;
