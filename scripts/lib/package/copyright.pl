# Prints debian/copyright: the module's own licence, and the licence of each crate that is linked into it, from what cargo says.

use strict;
use warnings;

use JSON::PP;

my $feature = '--no-default-features --features nginx,export-modules --locked';
my ($own) = my @crates = do {
    my %seen;
    grep { !$seen{$_}++ } map { /^(\S+) v(\S+)/ ? "$1 $2" : () } `cargo tree $feature --edges normal --prefix none`;
};
die "cargo tree says nothing\n" unless $own;
my $metadata = decode_json(scalar `cargo metadata $feature --format-version 1` || die "cargo metadata says nothing\n");
my %about = map { ("$_->{name} $_->{version}" => $_) } @{ $metadata->{packages} };

print <<"END";
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: $about{$own}{name}
Comment:
 The module is linked with Rust's standard library (the Rust project, MIT or
 Apache-2.0) and with the crates below. Where a crate leaves the choice,
 Apache-2.0 is taken, else the MIT license.

Files: *
Copyright: the authors of $about{$own}{name}
License: $about{$own}{license}
END

for my $crate (sort grep { $_ ne $own } @crates) {
    my $about = $about{$crate} or die "cargo metadata says nothing about $crate\n";
    my $license = $about->{license} // '';
    my $authors = join "\n ", @{ $about->{authors} };
    $authors ||= "the authors of $about->{name}, $about->{repository}";
    print "\nFiles: $about->{name}-$about->{version}/*\nCopyright: $authors\n";
    if ($license =~ /\bApache-2\.0\b/) {
        print "License: Apache-2.0\n";
    } elsif ($license =~ /\bMIT\b/) {
        print "License: Expat\n", text_of_license($about);
    } else {
        die "$crate is under the license \"$license\": say in scripts/lib/package/copyright.pl what that means\n";
    }
}

print <<'END';

License: Apache-2.0
 On Debian systems, the text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
END

# The crate's own copy, as it names the owners.
sub text_of_license {
    my ($about) = @_;
    my $path = $about->{manifest_path} =~ s/[^\/]*$/LICENSE-MIT/r;
    open my $in, '<', $path or die "$path: $!\n";
    return map { /\S/ ? " $_" : " .\n" } <$in>;
}
