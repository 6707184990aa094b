# A harness for prove that also writes what it counted, "passed failed skipped files", to the file named in PROVE_TOTALS.
package Totals;

use strict;
use warnings;
use parent 'TAP::Harness';

sub summary {
    my ($self, $aggregate) = @_;
    $self->SUPER::summary($aggregate);

    my $skipped = scalar $aggregate->skipped;
    my $passed  = scalar($aggregate->passed) - $skipped;
    my $failed  = scalar $aggregate->failed;

    my @files = $aggregate->descriptions;
    for my $parser ($aggregate->parsers(@files)) {
        # A file that skips all has no tests, and one that dies may have no failed ones; each still counts.
        $skipped++ if defined $parser->skip_all;
        $failed++  if $parser->has_problems && !$parser->failed;
    }

    open my $out, '>', $ENV{PROVE_TOTALS} or die "cannot write $ENV{PROVE_TOTALS}: $!";
    print {$out} join(' ', $passed, $failed, $skipped, scalar @files), "\n";
    close $out or die "cannot write $ENV{PROVE_TOTALS}: $!";
}

1;
