#!/usr/bin/env perl
# perl t/lib/fault-table.pl: writes the tables in "Faults" of t/README.md, from the lines at the top of the files of t/.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use Keepalive::Faults;

chdir "$FindBin::Bin/../.." or die "$FindBin::Bin/../..: $!";
my $text = with_table(read_file('t/README.md'), tables(fault_files()));
open my $out, '>:encoding(UTF-8)', 't/README.md' or die "t/README.md: $!";
print $out $text;
close $out or die "t/README.md: $!";
