# A server closes the connection right after its answer, or sends more bytes: nginx reads both in one event, so the connection
# has ended before it is stored. It is not stored, the answer is whole, and no request meets it.
#
# faults: F1.1 "the answer is whole"
# faults: F2.1 "the answer is whole"
# faults: F6.1 "the next request has its own answer, over a new connection"

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Client;
use Keepalive::Nginx;
use Keepalive::Setup;

my $backend = Keepalive::Backend->start;
my $port = free_port();
# Nothing else checks a stored connection, or repeats a request.
my $alone = is_ours() ? 'keepalive_check off; keepalive_stale_retry off;' : '';
my $nginx = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream backend { server @{[ $backend->address ]}; keepalive 4; $alone }
server {
    listen 127.0.0.1:$port;
    location /buffered { proxy_pass http://backend; }
    location /unbuffered { proxy_pass http://backend; proxy_buffering off; }
    location /full { proxy_pass http://backend; proxy_buffer_size 4k; }
}
END
my ($worker) = $nginx->workers;

# The worker sends the request, and is stopped until the answer and the end of the connection are there.
sub answer_and_end {
    my ($path, @options) = @_;
    my $request = begin($port, $path, @options);
    ok wait_for { $backend->stats->{busy} }, "$path: the request is under way";
    kill STOP => $worker;
    ok wait_for { !$backend->stats->{open} }, "$path: it is answered, and the connection ended";
    # The server counts a connection as closed just before it closes it.
    select undef, undef, undef, 0.05;
    kill CONT => $worker;
    return $request->finish;
}

for my $way (qw(buffered unbuffered)) {
    for my $fault (qw(close reset)) {
        for my $case (['GET', 'len=10', 200], ['GET', 'len=0', 200], ['GET', 'len=20000', 200], ['GET', 'framing=chunked&len=10', 200],
            ['GET', 'framing=trailers&len=10', 200], ['GET', 'status=204', 204], ['GET', 'status=304', 304], ['HEAD', 'len=10', 200],
            ['POST', 'len=10', 200]) {
            my ($method, $script, $status) = @$case;
            my $title = "$way, $fault, $method $script";
            $backend->reset;
            # It has been used before, or not.
            get($port, "/$way") if $script =~ /len=10$/;
            my $answer = answer_and_end("/$way?delay=150&fault=$fault&$script", method => $method, $method eq 'POST' ? (body => 'x') : ());
            my ($length) = $method eq 'HEAD' ? 0 : $script =~ /len=(\d+)/;
            is "$answer->{status} " . length $answer->{body}, "$status " . ($length // 0), "$title: the answer is whole";
            my $accepted = $backend->stats->{accepted};
            is get($port, "/$way", method => 'POST', body => 'x')->{status}, 200, "$title: the next request is answered";
            is $backend->stats->{accepted}, $accepted + 1, "$title: over a new connection";
            $backend->drop;
            ok wait_for { !$backend->stats->{open} }, "$title: which ends";
        }
    }
}
# More bytes. The answer fills nginx's buffer, so they are unread when it is complete.
for my $case (['GET', 'fill=4096', 200], ['GET', 'fill=4096&status=204', 204], ['HEAD', 'fill=4096', 200]) {
    my ($method, $script, $status) = @$case;
    $backend->reset;
    is get($port, "/full?$script&fault=extra", method => $method)->{status}, $status, "extra, $method $script: answered";
    my $next = get($port, '/full', method => 'POST', body => 'x');
    is $next->{body}, "connection 2 request 1\n", "extra, $method $script: the next request has its own answer, over a new connection";
    $backend->drop;
    wait_for { !$backend->stats->{open} };
}

# (When nginx has read a buffered answer to its end, it goes on reading, and logs a reset.)
my @errors = grep { /\[error\]/ && !m{reset by peer\) while reading upstream.* /buffered\?.*fault=reset} } split /\n/, $nginx->error_log;
is "@errors", '', 'nothing has failed';

$nginx->stop;
done_testing;
