# `keepalive_drain` with FastCGI: an unread answer is read up to the record that ends its request, and nothing else is taken for
# that end.
#
# faults: F7.5 "Records in all their forms" "not served, status" "errors before the header, alone"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Setup;
use Keepalive::Unread;

needs_module();
plan skip_all => 'nginx has no auth_request' unless has_feature('with-http_auth_request_module');

my $backend = Keepalive::Backend->start(protocol => 'fastcgi', listen => [('127.0.0.1:0') x 2]);
my ($server, $spare) = map { 'server ' . $backend->address($_) } 0, 1;
my $params = 'fastcgi_param REQUEST_METHOD $request_method; fastcgi_param QUERY_STRING $http_x_script;';
my $nginx = Keepalive::Unread->new($backend, {
    # Byte by byte takes its time.
    fastcgi       => "$server max_fails=0; keepalive 4; keepalive_drain 64k timeout=30s;",
    fastcgi_two   => "$server max_fails=0; $spare backup; keepalive 4;",
    fastcgi_bytes => "$server max_fails=0; keepalive 4; keepalive_drain 1000;",
    fastcgi_quick => "$server max_fails=0; keepalive 4; keepalive_drain 1m timeout=200ms;",
    fastcgi_off   => "$server max_fails=0; keepalive 4; keepalive_drain 0;",
}, http => "fastcgi_cache_path @{[ work_dir() ]}/cache keys_zone=answers:1m;", locations => <<"END");
location /fastcgi/closing { auth_request /fastcgi/closing/ask; proxy_pass http://pages; }
location /fastcgi/closing/ask { fastcgi_pass fastcgi; $params }
location /fastcgi/cached { auth_request /fastcgi/cached/ask; proxy_pass http://pages; }
location /fastcgi/cached/ask {
    fastcgi_cache answers;
    fastcgi_cache_key \$request_id;
    fastcgi_cache_valid 200 1s;
    fastcgi_keep_conn on;
    fastcgi_pass fastcgi;
    $params
}
location /fastcgi/unbuffered { mirror /fastcgi/unbuffered/ask; proxy_pass http://pages; }
location /fastcgi/unbuffered/ask { internal; fastcgi_buffering off; fastcgi_keep_conn on; fastcgi_pass fastcgi; $params }
location /token { fastcgi_keep_conn on; fastcgi_pass fastcgi; fastcgi_param QUERY_STRING \$args; }
END
my $process = $nginx->{nginx};

# Records (FastCGI 1.0, section 3.3). The first is the beginning of an answer.
my ($end_request, $stdout, $stderr) = (3, 6, 7);
sub record { my ($kind, $content, $padding) = @_; return pack('CCnnCx', 1, $kind, 1, length $content, $padding // 0) . $content . "\0" x ($padding // 0) }
sub output { return record($stdout, @_) }
sub errors { return record($stderr, @_) }
sub done { my ($status, $padding) = @_; return record($end_request, pack('NCx3', 0, $status // 0), $padding) }
my $head = "Status: 200 OK\r\nX-Test: test\r\n\r\n";
my $whole = output("${head}body") . done();

sub raw {
    my $bytes = join '', @_;
    $bytes =~ s/([^\w.:-])/sprintf '%%%02X', ord $1/ge;
    return "raw=$bytes";
}

# All that leaves answers unread.
for my $script ('body=OK', 'len=0', 'len=3000', 'len=60000', 'len=5000&drip=2', 'header=Content-Length:2&body=OK',
    'header=Connection:close&body=OK') {
    $nginx->kept('fastcgi', $_, $script, 200) for qw(auth mirror unbuffered accel cached);
    $nginx->kept('fastcgi', 'intercept', "$script&status=$_", 200) for 401, 404, 500;
    $nginx->kept('fastcgi_two', 'next', "$script&status=$_&only=0", 200) for 403, 404;
}
$nginx->kept('fastcgi', 'auth', "body=$_&status=$_", $_) for 401, 403;
$nginx->kept('fastcgi', 'auth', 'status=500&body=broken', 500);
$nginx->kept('fastcgi', 'cached', 'header=Cache-Control:no-store&body=OK', 200, 'cached, but not this answer');
# Answers without a body end in the same way.
$nginx->kept('fastcgi', $_, 'status=204', 200) for qw(auth mirror);
$nginx->kept('fastcgi', 'mirror', 'status=304', 200);
$nginx->kept('fastcgi', 'intercept', 'status=400&body=bad', 400, 'intercept: what is not intercepted is read');
for my $way (qw(accel intercept auth mirror)) {
    my ($connection, $before) = $nginx->who('fastcgi');
    get($nginx->{port}, "/fastcgi/$way", method => 'HEAD', headers => { 'X-Script' => 'len=10&status=404' });
    $nginx->settle;
    is join(' ', $nginx->who('fastcgi')), join(' ', $connection, $before + 2), "$way: HEAD";
}
# Those that are read, and always were.
for my $script ('status=204&len=0', 'status=404', 'len=100000') {
    my ($connection, $before) = $nginx->who('fastcgi');
    get($nginx->{port}, "/token?$script");
    $nginx->settle;
    is join(' ', $nginx->who('fastcgi')), join(' ', $connection, $before + 2), "no subrequest: $script";
}

# Records in all their forms; nothing depends on where the bytes are cut.
my %answers = (
    'one record, and the end'        => [$whole],
    'a header, and nothing else'     => [output($head), done()],
    'a body in records of its own'   => [output($head), output('bo'), output('dy'), output(''), done()],
    'an empty record at the end'     => [output("${head}body"), output(''), done()],
    'padding everywhere'             => [output("${head}bo", 3), output('dy', 255), output('', 1), done(0, 7)],
    'a header in two records'        => [output(substr $head, 0, 20), output(substr($head, 20) . 'body', 5), done()],
    'a header line in three records' => [output(substr $head, 0, 3), output(substr $head, 3, 4), output(substr($head, 7) . 'body'), done()],
    'errors behind the header'       => [output("${head}bo"), errors("PHP Notice:  late\n", 4), output('dy'), errors(''), done()],
    'errors behind the body'         => [output("${head}body"), output(''), errors('late'), done()],
    'an application that fails'      => [output("${head}body"), record($end_request, pack 'NCx3', 255, 0)],
);
for my $title (sort keys %answers) {
    my $script = raw(@{ $answers{$title} });
    $nginx->kept('fastcgi', 'auth', $script, 200, $title);
    $nginx->kept('fastcgi', 'mirror', "$script&drip=2", 200, "$title, in ten pieces");
    $nginx->kept('fastcgi', 'auth', "$script&drip=1&pieces=400", 200, "$title, byte by byte");
}
# Errors before the header: nginx discards them if they arrive alone, and then the position in the record is unknown.
$nginx->kept('fastcgi', 'auth', raw(errors("PHP Notice:  early\n", 3), $whole), 200, 'errors before the header, along with it');
$nginx->closed('fastcgi', 'auth', raw(errors('early' x 10), output("Status: 200\r\n\r\n"), done()) . '&drip=30&pieces=2', 200,
    'errors before the header, alone', 5);
$nginx->kept('fastcgi', 'auth', "body=OK", 200, 'after that');
# The same with a cache, which keeps something of its own before the answer.
$nginx->closed('fastcgi', 'cached', raw(errors('early'), output("Status: 200\r\nCache-Control: no-store\r\n\r\nbody"), done())
    . '&drip=30&pieces=7', 200, 'errors before the header, alone, and a cache', 5);

# What is no end, or no record.
my $log_read = 0;
sub new_log { my $new = substr $process->error_log, $log_read; $log_read += length $new; return $new }
sub closed_for {
    my ($reason, $name, $way, $script, $title, @more) = @_;
    new_log();
    $nginx->closed($name, $way, $script, 200, $title, @more);
    my @lines = grep { /is not kept/ } split /\n/, new_log();
    is grep({ /\[info\].*upstream "$name" is not kept: .*$reason/ } @lines), 1, "$title: the log says why" or diag "@lines";
}
my $body = output("${head}body");
my %wrong = (
    'another version'    => substr($whole, 0, length $body) . "\2" . substr(done(), 1),
    'another request'    => $body . "\1\3\0\2" . substr(done(), 4),
    'a high number'      => $body . "\1\3\1\1" . substr(done(), 4),
    'no such record'     => $body . record(11, "\0" x 8) . done(),
    'a record of nginx'  => $body . record(5, 'x') . done(),
    'an end without end' => $body . record($end_request, ''),
    'an end too long'    => $body . record($end_request, "\0" x 9),
    'text'               => $body . "HTTP/1.1 200 OK\r\n\r\n",
    map { ("not served, status $_" => $body . done($_)) } 1, 2, 3, 255,
);
for my $title (sort keys %wrong) {
    closed_for(qr/FastCGI response is invalid/, 'fastcgi', 'auth', raw($wrong{$title}), $title);
    closed_for(qr/FastCGI response is invalid/, 'fastcgi', 'mirror', raw($wrong{$title}) . '&drip=1&pieces=400', "$title, byte by byte", 20);
}

# More bytes follow: at once, after the padding, or when the connection is stored.
my %surplus = ('another answer' => $whole . $whole, 'a byte' => "$whole\1", 'a byte behind padding' => $body . done(0, 3) . "\0",
    'errors behind the end' => $whole . errors('too late'));
closed_for(qr/something follows the response/, 'fastcgi', 'auth', raw($surplus{$_}), $_) for sort keys %surplus;
closed_for(qr/something follows the response/, 'fastcgi', 'auth', 'body=OK&fault=extra', 'foreign bytes');
$nginx->closed('fastcgi', 'auth', 'body=OK&fault=extra&after=100', 200, 'foreign bytes, later', 2);

# Too large, too slow, broken off.
$nginx->kept('fastcgi_bytes', 'auth', $_, 200) for 'len=1000', 'len=1000&drip=2';
closed_for(qr/larger than "keepalive_drain"/, 'fastcgi_bytes', 'auth', $_, $_) for 'len=1001', 'len=1001&drip=2';
closed_for(qr/larger than "keepalive_drain"/, 'fastcgi_bytes', 'auth', raw(output($head . 'x' x 1001)), 'too large, in the first record');
closed_for(qr/larger than "keepalive_drain"/, 'fastcgi_bytes', 'auth', raw($body, errors('x' x 997)), 'too large, with its errors');
closed_for(qr/larger than "keepalive_drain"/, 'fastcgi_bytes', 'auth', raw($body, output('') x 250, done()), 'more framing than body');
closed_for(qr/larger than "keepalive_drain"/, 'fastcgi', 'auth', $_, $_) for 'len=65537', 'len=1000000', 'len=70000&drip=2';
closed_for(qr/not complete in time/, 'fastcgi_quick', 'auth', $_->[1], $_->[0], 3) for
    ['no end', raw($body)], ['no end of the end', raw(substr $whole, 0, -1)], ['padding that does not come', raw($body, substr done(0, 5), 0, -1)],
    ['a body that stops', 'len=1000&fault=hang&at=body'];
closed_for(qr/the server has closed/, 'fastcgi', 'auth', "$_->[1]&fault=close", $_->[0], 2) for
    ['closed instead of the end', raw($body)], ['closed in the body', 'len=1000&at=body&drip=1'];
# The connection is to be closed, or all such connections are.
$nginx->closed('fastcgi', 'closing', 'body=OK', 200, 'without fastcgi_keep_conn');
$nginx->closed('fastcgi_off', 'auth', 'body=OK', 200, 'keepalive_drain 0');
$nginx->closed('fastcgi_off', 'auth', 'status=204', 200, 'keepalive_drain 0, no body');

# Many at once: each client gets its own answer, never a byte of one that was drained.
my @scripts = ('body=drained', 'len=20000', 'len=500&drip=1', 'len=100000', 'status=401&body=drained', 'body=drained&fault=extra',
    raw(output("${head}bo", 3), errors('drained'), output('dy'), done(0, 7)));
my $load = Keepalive::Load->start($nginx->{port}, clients => 10, requests => 40, request => sub {
    my ($number, $client) = @_;
    return "/token?body=token-$client-$number" if $number % 2;
    return '/fastcgi/' . (qw(auth mirror accel))[$number / 2 % 3], headers => { 'X-Script' => $scripts[rand @scripts] };
});
$load->finish;
my @lines = $load->lines;
my @tokens = grep { m{/token} } @lines;
is @tokens, 200, 'many at once: all tokens are answered';
is_deeply [grep { !m{^200 /token\?body=(\S+) \1$} } @tokens], [], 'many at once: each with its own';

$_->drop for $backend, $nginx->{pages};
ok wait_for { $process->descriptors < 20 }, 'no descriptor is left' or diag $process->descriptors;
$nginx->stop;
done_testing;
