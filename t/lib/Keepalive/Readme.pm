package Keepalive::Readme;

# The reference in docs/, as data.

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();

our @EXPORT = qw(content_of section directives words_of syntaxes filled reasons json_shown);

sub content_of {
    my ($path) = @_;
    open my $in, '<:encoding(UTF-8)', $path or die "$path: $!";
    local $/;
    return <$in> // '';
}

my $readme = join "\n", map { content_of("docs/$_.md") } qw(reference status internals);

# The text below a heading, up to the next heading of the same level or a higher one.
sub section {
    my ($title) = @_;
    my ($level, $text) = $readme =~ /^(#+) \Q$title\E\n(.*)/ms or die "docs/ has no \"$title\"\n";
    my $number = length $level;
    $text =~ s/^#{1,$number} .*//ms;
    return $text;
}

# All directives: { name => { Syntax => '..', Default => '..', Context => '..' } }
sub directives {
    my %directives;
    while ($readme =~ /^### (\w+)\n\n((?:^\|.*\n)+)/mg) {
        my ($name, $table) = ($1, $2);
        my %row = $table =~ /^\| \*\*(\w+)\*\* *\| (.*?) *\|$/mg;
        s/\\\|/|/g for values %row;
        $directives{$name} = \%row if $row{Syntax};
    }
    return %directives;
}

# The texts in back quotes.
sub words_of { return $_[0] =~ /`([^`]+)`/g }

# A sample for each placeholder; the second one if it is repeated.
my %sample = (
    connections => ['10'], number => ['10'], size => ['10m'], time => ['5s'], timeout => ['5s'], uri => ['/a'],
    code => ['503', '504'], name => ['X-A', 'X-B'], '$variable' => ['$a'], value => ['b'],
);

# What a syntax allows: `lines`, with samples for placeholders, without options, with each option alone, and with all of them;
# `endless`, whether more words can follow; `values`, the literal words; `options`, as they are written.
sub syntaxes {
    my ($syntax) = @_;
    my (@lines, @values, @options_of_all);
    my $endless = 0;
    for my $one ($syntax =~ /([^;]+);/g) {
        my ($name, $rest) = split ' ', $one, 2;
        for my $way (length($rest // '') ? split(/ \| /, $rest) : '') {
            my ($must, $more) = $way =~ /^([^[]*?) *((?:\[[^]]*\] *)*)$/ or die "what is \"$way\"?\n";
            my @options = $more =~ /\[([^]]*)\]/g;
            my $repeated = $must =~ s/ *\.\.\.$//;
            my @words = split ' ', $must;
            $endless ||= $repeated;
            push @values, grep { !$sample{$_} } @words;
            push @options_of_all, @options;
            my $line = sub { join(' ', $name, map { filled($_, 0) } @_) . ';' };
            push @lines, $line->(@words), map { $line->(@words, $_) } @options;
            push @lines, $line->(@words, @options) if @options > 1;
            push @lines, $line->(@words) =~ s/;$/' ' . filled($words[-1], 1) . ';'/er if $repeated;
        }
    }
    return { lines => \@lines, endless => $endless, values => \@values, options => \@options_of_all };
}

# A word or an option with a sample for its placeholder; the second one if it is repeated.
sub filled {
    my ($word, $number) = @_;
    return $word =~ s/=(\w+)$/'=' . $sample{$1}[$number]/er if $word =~ /=/;
    return $sample{$word} ? $sample{$word}[$number] : $word;
}

# The names in a table of reasons.
sub reasons {
    my ($name) = @_;
    my ($rows) = $readme =~ /^\| `$name` \|.*\n\|---\|---\|\n((?:^\|.*\n)+)/m or die "docs/ has no table `$name`\n";
    return map { /^\| ([^|]*) \|/ ? words_of($1) : () } split /\n/, $rows;
}

# The JSON that the block in "JSON" shows: names without a value get one, and explanations are left out.
sub json_shown {
    my ($block) = section('JSON') =~ /^```\n(.*?)^```/ms or die "docs/ has no JSON\n";
    $block =~ s/(?<=\S) {2,}.*$//mg;
    $block =~ s/(?<!: )("\w+")(?= *(?:[,}]|$))/$1: 0/mg;
    return JSON::PP::decode_json($block);
}

1;
