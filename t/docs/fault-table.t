# Every file of t/ says which faults it shows, by titles that it has, and t/README.md has the tables made of these lines.
#
# about: documents

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Faults;

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output);

sub wrong { return headings($_[0])->{wrong} }

is_deeply wrong(qq(# A test.\n# faults: F1.2 "closed" "other"\n\nok 1, 'closed';\n)), ['no test is called: other'],
    'a title that no test has is found';
is_deeply wrong(qq(# faults: F1 "a"\n# faults: F99.1 "a"\n# about: a\n\na)),
    ['there is no fault F1', 'there is no fault F99.1', 'not understood: about: a'], 'so is a fault that the list does not have';
is_deeply wrong("# A test.\n\nok 1;\n"), ['no line "# faults: .." or "# about: .."'], 'so is a file that says nothing';

my $files = fault_files();
is_deeply $files->{$_}{wrong}, [], $_ for sort keys %$files;

is_deeply [missing({})]->[0], 'F1.1', 'a fault without a file is found';
is join(' ', missing($files)), '', 'each fault has a file';
my $tables = tables($files);
is join(' ', grep { $tables !~ /^\| F$_\.\d+ \|.*`[\w\/-]+\.t`/m } 1 .. 22), '', 'no group of faults is left out';
is join(' ', grep { index($tables, shown($_)) < 0 } sort keys %$files), '', 'each file is named';
is table_in(read_file('t/README.md')), $tables, 't/README.md has these tables; if not: perl t/lib/fault-table.pl';

done_testing;
