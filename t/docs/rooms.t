# The folders of src/: each imports only from those below it, and mod.rs lists its files.
#
# about: documents

use strict;
use warnings;

use File::Find ();
use Test::More;

use lib 't/lib';
use Keepalive::Setup;

needs_module();

# From the top. What stands beside each other in a row does not know the others.
my @shell = qw(setup observe peer waiting handover idle streams max_conns shared state nginx);
my %below;
for my $at (0 .. $#shell) { $below{"ffi/$shell[$at]"} = { map { ("ffi/$_" => 1) } @shell[$at + 1 .. $#shell] } }
$below{'ffi/auth'} = { 'ffi/nginx' => 1 };
# The two modules are put together at the top.
$below{'ffi/setup'}{'ffi/auth'} = 1;
my %core = (
    base => [], fastcgi => ['base'], handover => ['base'], http1 => ['base'], http2 => [qw(base http1 pool)], queue => ['base'],
    ledger => ['base'], pool => ['base'], metrics => ['base'], drain => [qw(base fastcgi)], lessons => [qw(base http1)],
    reuse => [qw(base http1 lessons)], directive => [qw(base http1 pool queue reuse)], auth => [qw(base directive)],
    status => [qw(base lessons metrics)],
);
$below{$_} = { map { ($_ => 1) } @{ $core{$_} } } for keys %core;

sub text_of {
    my ($file) = @_;
    open my $in, '<:encoding(UTF-8)', $file or die "$file: $!";
    local $/;
    return <$in>;
}

# The rooms whose names a text mentions, in imports or elsewhere, comments left out.
sub mentioned {
    my ($text) = @_;
    $text =~ s{//.*}{}g;
    my %rooms = map { ($_ => 1) } map { s{::}{/}r } $text =~ /\bcrate::(ffi::\w+|\w+)/g;
    return sort keys %rooms;
}

# What a file must not know, of those that it does.
sub upward {
    my ($room, $text) = @_;
    return grep { $_ ne $room && !$below{$room}{$_} && ($room !~ /^ffi/ || /^ffi/) } mentioned($text);
}

is_deeply [upward('ffi/nginx', "use crate::ffi::state::waits::Line;\nuse crate::pool::Key;\n// crate::ffi::peer\n")],
    ['ffi/state'], 'what knows a room above it is found';
is_deeply [upward('pool', "fn a() -> crate::ffi::nginx::conn::Conn")], ['ffi/nginx'], 'so is a core that knows the shell';

my (%files, @strangers);
File::Find::find({ no_chdir => 1, wanted => sub { push @{ $files{$1} }, $_ if m{^src/(ffi/\w+|\w+)(?:/.*)?\.rs$} } }, 'src');
delete @files{qw(lib ffi ffi/mod)};
is_deeply [sort keys %files], [sort keys %below], 'each room is known here';
for my $room (sort keys %files) {
    # The models of memory that workers share try parts of several rooms together.
    my @compiled = grep { !m{/orders\.rs$} } sort @{ $files{$room} };
    my @up = map { my $file = $_; map { "$file knows $_" } upward($room, text_of($file)) } @compiled;
    is_deeply \@up, [], "$room knows only what is below it";
}

# Files that no mod.rs lists are not compiled, and not read.
for my $mod (glob 'src/*/mod.rs src/ffi/*/mod.rs') {
    my ($folder) = $mod =~ m{(.*)/};
    my %listed = map { ($_ => 1) } text_of($mod) =~ /^ *(?:pub(?:\([^)]*\))? )?mod (\w+);/mg;
    my @here = map { m{([^/]+?)(?:\.rs|/)?$} } grep { !m{/mod\.rs$} && (/\.rs$/ || -e "$_/mod.rs") } glob "$folder/*";
    is_deeply [sort keys %listed], [sort @here], "$mod lists its files";
}

done_testing;
