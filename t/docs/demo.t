# scripts/demo in its short form: it shows what it promises, in 80 columns, and a verdict is made of the figures.
#
# about: documents

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Nginx;
use Keepalive::Setup;

needs_module();
plan skip_all => 'the sanitizers are slow' if is_sanitized();
plan skip_all => 'h2load is missing' if system('command -v h2load >/dev/null 2>&1') != 0;
plan skip_all => "nginx has no $_" for grep { !has_feature($_) } qw(with-http_ssl_module with-http_auth_request_module);

my ($binary, $module) = (nginx_binary(), module_path());
my $said = `scripts/demo --quick --nginx $binary --module $module 2>&1 </dev/null`;
is $?, 0, 'each act has shown what it is about' or diag $said;
my @verdicts = $said =~ /^   => (\w.*)/mg;
is scalar(@verdicts), 3, 'there are three verdicts';
is_deeply [grep { length > 80 } split /\n/, $said], [], 'no line is longer than 80 columns';
unlike $said, qr/[\e\r]/, 'no colours and no progress in a file';

# The figures of a row.
sub figures {
    my ($row, $act) = @_;
    my ($text) = $said =~ /^$act\. (.*?)^   =>/ms or return [];
    my ($figures) = $text =~ /^   \Q$row\E +([\d, ]+)$/m or return [];
    return [map { tr/,//dr } split ' ', $figures];
}

my %row = map { $_ => figures($_, 1) } 'stock nginx', 'this module', 'this module, http2 on', 'this module, max_conns=4';
is_deeply [map { $row{$_}[2] } grep { /this/ } sort keys %row], [0, 0, 0], 'act 1: no request fails with this module';
cmp_ok $row{'this module'}[0], '<', $row{'stock nginx'}[0], 'act 1: this module opens fewer connections';
cmp_ok $row{'this module, max_conns=4'}[1], '<=', 4, 'act 1: with the limit there are four at most';
cmp_ok figures('stock nginx', 2)->[2], '>', 0, 'act 2: stock nginx loses POSTs';
is figures('this module', 2)->[2], 0, 'act 2: this module loses none';
is_deeply figures('this module', 3), [100, 0, 0, 100], 'act 3: nobody is taken for somebody else';

# A figure that does not show what was promised.
my $judged = `bash -c '. scripts/lib/common.sh && use demo/show && choose_colours
    verdict "It is so." "1 < 2" "one is less"
    verdict "It is 3." "3 < 2" "three is less" "2 < 3" "two is less" "4 < 2" "four is less"
    echo "\$NOT_SHOWN not shown"' 2>&1`;
is $judged, "\n   => It is so.\n\n   => Not shown: three is less, four is less. It is 3.\n1 not shown\n",
    'a promise that is not kept is named';

done_testing;
