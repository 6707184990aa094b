# `satisfy`: auth_request and auth_subrequest beside allow, deny and auth_basic. Both have the same outcome.
#
# faults: F20.9 "satisfy $satisfy, $condition"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $users = work_dir() . '/users';
open my $out, '>', $users or die $!;
print $out "anne:{PLAIN}secret\n";
close $out;

my %conditions = (
    allowed => 'allow 127.0.0.1; deny all;',
    denied  => 'deny all;',
    basic   => "auth_basic realm; auth_basic_user_file $users;",
    'denied-basic' => "deny all; auth_basic realm; auth_basic_user_file $users;",
    none    => '',
);
my $right = { headers => { Authorization => 'Basic YW5uZTpzZWNyZXQ=' } };
my $wrong = { headers => { Authorization => 'Basic YW5uZTp3cm9uZw==' } };

# satisfy, condition, what the client says, what the authorisation server says: status, number of questions, and whose
# challenges come with a 401.
my @cases = (
    ['all', 'none',    {},     204, '200 1'], ['all', 'none',    {},     401, '401 1 auth'],
    ['any', 'none',    {},     204, '200 1'], ['any', 'none',    {},     401, '401 1 auth'],
    ['any', 'none',    {},     403, '403 1'], ['any', 'none',    {},     500, '500 1'],
    ['all', 'allowed', {},     204, '200 1'], ['all', 'allowed', {},     403, '403 1'],
    ['all', 'denied',  {},     204, '403 0'],
    ['any', 'allowed', {},     403, '200 0'],
    ['any', 'denied',  {},     204, '200 1'], ['any', 'denied',  {},     401, '401 1 auth'],
    ['any', 'denied',  {},     403, '403 1'], ['any', 'denied',  {},     404, '500 1'],
    ['all', 'basic',   $right, 204, '200 1'], ['all', 'basic',   $right, 401, '401 1 auth'],
    ['all', 'basic',   $wrong, 204, '401 0 basic'], ['all', 'basic', {}, 204, '401 0 basic'],
    ['any', 'basic',   $right, 403, '200 0'],
    ['any', 'basic',   $wrong, 204, '200 1'], ['any', 'basic',   {},     204, '200 1'],
    ['any', 'basic',   $wrong, 401, '401 1 basic auth'], ['any', 'basic', {}, 403, '401 1 basic'],
    ['any', 'basic',   $wrong, 404, '500 1 basic'],
    ['any', 'denied-basic', $wrong, 204, '200 1'], ['any', 'denied-basic', $right, 403, '200 0'],
    ['any', 'denied-basic', {}, 401, '401 1 basic auth'],
    ['all', 'denied-basic', $right, 204, '403 0'],
);

for my $auth ('auth_request', is_ours() ? 'auth_subrequest' : ()) {
    my $site = Keepalive::Auth->new(
        auth => 'proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header Connection "";',
        locations => join '', map {
            my $satisfy = $_;
            map { "location /$satisfy/$_/ { satisfy $satisfy; $conditions{$_} $auth /auth; proxy_pass http://app; }\n" }
                keys %conditions;
        } qw(all any))->start;
    for my $case (@cases) {
        my ($satisfy, $condition, $options, $status, $expected) = @$case;
        my $who = !%$options ? 'nobody' : $options == $right ? 'the right user' : 'a wrong one';
        $site->asked;
        my $answer = $site->get("/$satisfy/$condition/", script(status => $status,
            $status == 401 ? (header => 'WWW-Authenticate:auth') : ()), %$options);
        my ($questions) = $site->asked =~ /auth (\d+)/;
        my @challenges = map { /realm/ ? 'basic' : $_ } values_of('WWW-Authenticate', $answer);
        is join(' ', $answer->{status}, $questions, @challenges), $expected,
            "$auth: satisfy $satisfy, $condition, $who: $status";
    }
    $site->stop;
}
done_testing;
