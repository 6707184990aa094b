# The documents: their links lead somewhere, the files that they name exist, nginx accepts the configurations that they show,
# each alert is explained, and each source file is named in the architecture.
#
# about: documents

use strict;
use warnings;

use CPAN::Meta::YAML;
use File::Basename qw(dirname);
use File::Find ();
use Test::More;

use lib 't/lib';
use Keepalive::Nginx;
use Keepalive::Readme;
use Keepalive::Setup;

needs_module();

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output);

my @documents = sort glob('*.md docs/*.md t/*.md');
cmp_ok scalar(@documents), '>', 5, "there are documents: @documents";
my %text = map { $_ => content_of($_) } @documents;
# What is not shown as code.
my %prose = map { $_ => $text{$_} =~ s/^ *```.*?^ *```$//msgr } @documents;

# The anchors of a document, as they are made of its headings.
sub anchors {
    my ($document) = @_;
    my %anchors;
    for my $heading ($prose{$document} =~ /^#+ (.+)$/mg) {
        my $anchor = lc($heading =~ s/\[([^]]*)\]\([^)]*\)/$1/gr) =~ s/[^\w -]//gr =~ tr/ /-/r;
        my $count = $anchors{$anchor}++;
        $anchors{"$anchor-$count"} = 1 if $count;
    }
    return \%anchors;
}

my %anchors = map { $_ => anchors($_) } @documents;

# A path beside a document, as seen from the folder of the project.
sub beside {
    my ($document, $path) = @_;
    my $joined = dirname($document) eq '.' ? $path : dirname($document) . "/$path";
    1 while $joined =~ s{(?:^|(?<=/))(?!\.\./)[^/]+/\.\./}{};
    return $joined;
}

# Links.
sub dead_links {
    my ($document, $prose) = @_;
    my @dead;
    for my $link ($prose =~ /(?<!!)\[[^]]+\]\(([^)\s]+)\)/g) {
        next if $link =~ /^https?:/;
        my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
        my $target = length $path ? beside($document, $path) : $document;
        push @dead, $link if !-e $target || (defined $anchor && !$anchors{$target}{$anchor});
    }
    return @dead;
}

is_deeply [dead_links('docs/security.md', '[a](no.md) [b](#no) [c](../README.md#no) [d](reference.md#queue) [e](../LICENSE)')],
    ['no.md', '#no', '../README.md#no'], 'a link that leads nowhere is found';
is_deeply [dead_links($_, $prose{$_})], [], "$_: all links lead somewhere" for @documents;

# Files and folders of the project that are named in back quotes; those of docs/ and t/ are also named without a folder there.
for my $document (@documents) {
    my @named = map { s{^\./}{}r } $prose{$document} =~ m{`((?:src|t|scripts|nginx-conf|docs)/[\w./-]*)[ `]}g;
    push @named, map { "t/$_" } $prose{$document} =~ m{`((?!t/)[\w-]+/[\w-]+\.t)`}g;
    is_deeply [grep { !-e } @named], [], "$document: all files exist";
}

# Configurations. Most are parts: each is put where it belongs.
my %place = (
    main     => sub { $_[0] =~ /^\s*(?:http|events) \{/m ? { text => $_[0], module => 1 } : { main => $_[0], http => '' } },
    http     => sub { { http => upstreams($_[0]) . $_[0] } },
    server   => sub { { http => upstreams($_[0]) . "server {\n$_[0]\n}" } },
    location => sub { { http => upstreams('') . "server {\nlocation / {\n$_[0]\n}\n}" } },
    upstream => sub { { http => "upstream u {\n$_[0]\n}" } },
);

# Those that the text leaves out.
sub upstreams {
    my ($text) = @_;
    my @missing = grep { $text !~ /^\s*upstream $_ \{/m } qw(app auth backend);
    return join '', map { "upstream $_ { server 127.0.0.1:1; }\n" } @missing;
}

my $module = module_path();

# Why nginx takes a configuration nowhere; empty if it does, and then without a word.
sub refusal {
    my ($block) = @_;
    my $folder = work_dir();
    $block =~ s{^(\s*load_module )\S+;}{$1$module;}m;
    my $loads = $block =~ /^\s*load_module/m;
    $block =~ s{/var/(?:cache|log)/nginx/[\w-]+}{$folder/file}g;
    my @said;
    for my $place (qw(http server location upstream main)) {
        my $nginx = Keepalive::Nginx->new(http => '', module => !$loads, %{ $place{$place}->($block) });
        my ($accepted, $said) = $nginx->test;
        return $said =~ /\[warn\] (.*)/ ? $1 : '' if $accepted;
        push @said, "$place: " . ($said =~ /\[emerg\] (.*)/)[0];
    }
    return join "\n", @said;
}

isnt refusal('location / { proxy_pass http://nobody; }'), '', 'what nginx does not take is found';
for my $document (@documents) {
    my $number = 0;
    for my $block ($text{$document} =~ /^```nginx\n(.*?)^```$/msg) {
        is refusal($block), '', "$document: configuration " . ++$number;
    }
}

# Alerts: each has a paragraph, and names it.
my @rules = map { @{ $_->{rules} } } @{ CPAN::Meta::YAML->read('nginx-conf/prometheus-alerts.yml')->[0]{groups} };
my @explained = $text{'docs/operations.md'} =~ /^### (Nginx\w+)$/mg;
is_deeply \@explained, [map { $_->{alert} } @rules], 'operations.md explains each alert, in their order, and no other';
is_deeply [map { $_->{annotations}{runbook} // '' } @rules], [map { 'docs/operations.md#' . lc $_->{alert} } @rules],
    'each alert leads to its paragraph';

# Architecture: each source file is named, and no other. Files after the first one of a folder are named without the folder.
my @sources;
File::Find::find({ no_chdir => 1, wanted => sub { push @sources, $_ if /\.(?:rs|html)$/ } }, 'src');
my ($tables) = $text{'docs/architecture.md'} =~ /^### The core\n(.*)^### Around it$/ms;
my ($folder, %named) = '';
for my $name ($tables =~ m{`([\w./]+\.(?:rs|html))`}g) {
    $folder = dirname($name) if $name =~ m{/};
    $named{ $name =~ m{/} ? $name : "$folder/$name" } = 1;
}
is_deeply [sort grep { !$named{$_} } @sources], [], 'architecture.md names each source file';
is_deeply [sort grep { !-e } keys %named], [], 'and no other';

done_testing;
