# TLS names and certificates from variables that change during a request: every handshake gets what stock nginx would use, and
# no request gets a connection that was made for another identity.
#
# faults: F10.1 "Alice is Alice"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Certificates;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

plan skip_all => 'nginx has no TLS' unless has_feature('with-http_ssl_module');

my ($certificate, $key) = self_signed('localhost');
my $dir = work_dir();
for my $name (qw(alice bob)) {
    my ($crt, $own_key) = self_signed($name);
    symlink $crt, "$dir/client-$name.crt";
    symlink $own_key, "$dir/client-$name.key";
}
my ($port, $secure, $plain, $dead) = map { free_port() } 1 .. 4;

sub write_file {
    my ($name, $text) = @_;
    open my $out, '>', "$dir/$name" or die "$name: $!";
    print $out $text;
    close $out;
}

# While the subrequest /a connects, /b changes the variable that they share, and /c changes it back before /a is done.
write_file('slow.txt', 'x' x 1500);
write_file('page.html', '<!--# include virtual="/a" --><!--# include virtual="/b" -->' . 'y' x 6000 . '<!--# include virtual="/c" -->end');

for my $sessions ('on', 'off') {
    my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
proxy_ssl_session_reuse $sessions;
upstream shared  { server 127.0.0.1:$secure; keepalive 16; }
upstream refuses { server 127.0.0.1:$dead max_fails=0; server 127.0.0.1:$secure max_fails=0; keepalive 16; }

# Evaluated once in a request, like most variables.
map \$upstream_addr \$chosen { default wrong; ~:(?<found>$secure)\$ right; }

server {
    listen 127.0.0.1:$secure ssl;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_verify_client optional_no_ca;
    location /     { return 200 "sni \$ssl_server_name\\n"; }
    location /slow { limit_rate 500; alias $dir/slow.txt; add_header X-Client \$ssl_client_s_dn; }
}
server {
    listen 127.0.0.1:$plain;
    location / { root $dir; limit_rate 4000; }
}
server {
    listen 127.0.0.1:$port;
    location = /page.html { ssi on; proxy_pass http://127.0.0.1:$plain; proxy_buffering off; }
    location = /b { set \$who bob; return 200 "b"; }
    location = /c { set \$who alice; return 200 "c"; }
    location = /a {
        set \$who alice;
        proxy_ssl_certificate $dir/client-\$who.crt;
        proxy_ssl_certificate_key $dir/client-\$who.key;
        proxy_pass https://shared/slow;
    }
    location ~ ^/(?<first>tri)(es)\$ {
        proxy_ssl_server_name on;
        proxy_ssl_name \$chosen.test;
        proxy_pass https://refuses;
        add_header X-Captures "\$1 \$2 \$first";
    }
}
END
    for my $round (1 .. 4) {
        my $answer = get($port, '/tries');
        is $answer->{body}, "sni right.test\n", "sessions $sessions: a server that refuses leaves no name behind, round $round";
        # The handshake of the first round evaluates the map, and its captures stay, as in stock nginx.
        is $answer->{headers}{'x-captures'}, 'tri es tri', "sessions $sessions: nor captures, round $round" if $round > 1;
    }
    is get($port, '/page.html')->{status}, 200, "sessions $sessions: the variable changes there and back";
    # The stock module would hand out the connection that was made for Bob.
    is get($port, '/a')->{headers}{'x-client'}, 'CN=alice', "sessions $sessions: Alice is Alice" if is_ours();
    $nginx->stop;
}

done_testing;
