# auth_subrequest_timeout when the authorisation location has subrequests of its own: giving up while one of them is running
# blocks nobody, neither then nor later.
#
# faults: F20.3 "the connection goes on" "nothing that a part has said"

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Keepalive::Auth;
use Keepalive::Setup;

needs_module();
my @lua = has_module_file('ndk_http_module.so', 'ngx_http_lua_module.so');
my @echo = has_module_file('ngx_http_echo_module.so');
plan skip_all => 'nginx has neither the Lua module nor the echo module' unless @lua || @echo;

# What is asked; /slow does what the client says. Lua takes what a part says for itself, and waits for it alone; with echo nginx
# makes them wait for each other, and sends what they say in their order.
my %lua = (
    part    => 'content_by_lua_block { ngx.exit(ngx.location.capture("/slow").status) }',
    late    => 'content_by_lua_block { ngx.sleep(0.5); ngx.exit(ngx.location.capture("/slow").status) }',
    sleeps  => 'content_by_lua_block { ngx.sleep(0.7); ngx.exit(200) }',
    both    => 'content_by_lua_block { ngx.location.capture_multi({ { "/slow" }, { "/slow" } }); ngx.exit(200) }',
    deep    => 'content_by_lua_block { ngx.exit(ngx.location.capture("/inner").status) }',
    again   => 'content_by_lua_block { for i = 1, 3 do ngx.location.capture("/slow") end; ngx.exit(200) }',
    dozes   => 'content_by_lua_block { ngx.exit(ngx.location.capture("/dozing").status) }',
    early   => 'rewrite_by_lua_block { ngx.location.capture("/slow") } proxy_pass http://auth/;',
    says    => 'content_by_lua_block { ngx.say(ngx.location.capture("/slow").body) }',
);
my %echo = (
    one    => 'echo_location /slow;',
    async  => 'echo_location_async /slow; echo said;',
    two    => 'echo_location_async /slow; echo_location_async /slow;',
    mixed  => 'echo said; echo_location /slow; echo_location_async /slow; echo so;',
    nested => 'echo_location /echo-inner; echo said;',
);
my %auth = @lua ? %lua : ();
my $locations = '';
for my $name (sort keys %auth) {
    $locations .= "location = /auth-$name { internal; $auth{$name} }\n";
    for my $way (['', '503', 'app'], ['/open', 'allow', 'app'], ['/patient', '503', 'app']) {
        my ($path, $error, $app) = @$way;
        my $timeout = $path eq '/patient' ? '20s' : '300ms';
        $locations .= "location $path/$name { auth_subrequest /auth-$name; auth_subrequest_timeout $timeout;"
            . " auth_subrequest_error $error; proxy_pass http://$app; }\n";
    }
}
if (@echo) {
    for my $name (sort keys %echo) {
        $locations .= "location = /auth-$name { internal; echo_status 403; $echo{$name} }\n";
        $locations .= "location /$name { auth_subrequest /auth-$name; auth_subrequest_pass_body 4k; auth_subrequest_timeout 300ms; proxy_pass http://app; }\n";
        $locations .= "location /page/$name { auth_subrequest /auth-$name; auth_subrequest_pass_body 4k; auth_subrequest_timeout 300ms;"
            . " error_page 403 = \@page; }\n";
    }
    $locations .= "location /echo-inner { internal; echo_location /slow; echo_location_async /slow; }\n";
}
if (@lua) {
    $locations .= 'location /inner { internal; content_by_lua_block { ngx.exit(ngx.location.capture("/slow").status) } }';
    $locations .= 'location /dozing { internal; content_by_lua_block { ngx.sleep(0.7); ngx.exit(200) } }';
}
my $site = Keepalive::Auth->new(main => join('', map { "load_module $_;\n" } @lua, @echo), locations => <<"END")->start;
    $locations
    location /slow { internal; proxy_read_timeout 1500ms; proxy_pass http://auth/?\$http_x_auth; }
    location \@page { proxy_pass http://app; }
END
$site->descriptors;
my $descriptors = $site->descriptors;

# An answer, and the next one over the same connection.
sub expect {
    my ($title, $path, $script, $expected, $most) = @_;
    my $begun = time;
    my $request = $site->begin($path, $script, keep_alive => 1);
    my $answer = '';
    while ((my $more = $request->receive) ne '') {
        $answer .= $more;
        last if $answer =~ /\r\n\r\n/ && Keepalive::Client::parse($answer)->{complete};
    }
    $answer = Keepalive::Client::parse($answer);
    is $answer->{status}, $expected, "$title: the status";
    unlike $answer->{body}, qr/connection \d|50\d/, "$title: nothing that a part has said" if $expected == 403;
    ok $answer->{complete}, "$title: the answer is whole";
    cmp_ok time - $begun, '<', $most, "$title: in time";
    my $next = $site->begin('/settled', '', over => $request->{socket});
    is $next->finish->{body}, 'settled', "$title: the connection goes on";
}

for my $name (sort keys %auth) {
    expect("$name, a slow answer", "/$name", 'status=200&delay=1200', 503, 1.0);
    expect("$name, none at all", "/$name", 'fault=hang&at=start', 503, 1.0);
    expect("$name, a slow answer, allowed", "/open/$name?delay=900&len=100000", 'status=200&delay=600', 200, 3);
    expect("$name, none at all, allowed", "/open/$name?delay=900&len=100000", 'fault=hang&at=start', 200, 3);
    is $site->status("/patient/$name", 'status=200'), 200, "$name: with time enough";
    my $gone = $site->begin("/patient/$name", 'fault=hang&at=start');
    select undef, undef, undef, 0.1;
    $gone->abort;
    $gone = $site->begin("/$name", 'status=200&delay=600');
    select undef, undef, undef, 0.4;
    $gone->abort;
}
# What a question or a part of it says goes nowhere but where auth_subrequest_pass_body takes it.
for my $name (@echo ? sort keys %echo : ()) {
    for my $case (['an answer', 'status=200&len=3000'], ['a slow answer', 'status=200&delay=800'], ['none at all', 'fault=hang&at=start']) {
        my ($title, $script) = @$case;
        expect("$name, $title", "/$name", $script, 403, 1);
        expect("$name, $title, with a page", "/page/$name?delay=400&len=100000", $script, 200, 2);
    }
}
is $site->status('/settled', ''), 200, 'the worker is well';
ok wait_for { $site->descriptors <= $descriptors }, 'no descriptor is left'
    or diag $site->descriptors . " instead of $descriptors";
$site->stop;
done_testing;
