# Prints debian/copyright: the module's own licence, and the licence of each crate that is linked into it. Reads what
# `cargo build --message-format=json` has written, which tells where each crate is.

use strict;
use warnings;

use JSON::PP;

my %manifest;
while (my $line = <STDIN>) {
    next unless $line =~ /^\{/;
    my $said = decode_json($line);
    $manifest{$1} = $said->{manifest_path} if ($said->{manifest_path} // '') =~ m{([^/]+)/Cargo\.toml$};
}
# Without the crates that only compile others.
my $feature = '--no-default-features --features nginx,export-modules --locked';
my (@crates, %about);
for (`cargo tree $feature --edges normal --prefix none --format '{p}\t{l}\t{r}'`) {
    my ($crate, $license, $repository) = split /\t/, s/\n//r;
    my ($name, $version) = $crate =~ /^(\S+) v(\S+)/ or next;
    next if $about{"$name $version"};
    push @crates, "$name $version";
    $about{"$name $version"} = {
        name => $name, version => $version, license => $license, repository => $repository,
        manifest_path => $manifest{"$name-$version"},
    };
}
die "cargo tree says nothing\n" unless @crates;
my $own = $crates[0];

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
    my $about = $about{$crate};
    die "cargo says nothing about $crate\n" unless $about->{manifest_path};
    my $license = $about->{license};
    my $authors = join "\n ", authors($about);
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

# cargo writes the manifests of published crates anew, so the list always looks the same.
sub authors {
    my ($about) = @_;
    open my $in, '<', $about->{manifest_path} or die "$about->{manifest_path}: $!\n";
    my $text = do { local $/; <$in> };
    my ($list) = $text =~ /^authors = \[(.*?)^?\]$/ms or return;
    return $list =~ /"((?:[^"\\]|\\.)*)"/g;
}

# The crate's own copy, as it names the owners.
sub text_of_license {
    my ($about) = @_;
    my $path = $about->{manifest_path} =~ s/[^\/]*$/LICENSE-MIT/r;
    open my $in, '<', $path or die "$path: $!\n";
    return map { /\S/ ? " $_" : " .\n" } <$in>;
}
