# The page of keepalive_status in a browser: it updates its numbers, loads nothing else, shows names as text, fits a phone, and
# says when there is no answer.
#
# about: status

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use lib 't/lib';
use Keepalive::Backend;
use Keepalive::Browser;
use Keepalive::Client;
use Keepalive::Load;
use Keepalive::Nginx;
use Keepalive::Setup;
use Keepalive::Status;

needs_module();
my $missing = Keepalive::Browser::missing();
plan skip_all => "needs $missing" if $missing;

my $backend = Keepalive::Backend->start;
my $port = free_port();
my $page = "http://127.0.0.1:$port/status";

# Names that do harm if they are taken for markup.
my $nasty = q{<img src=x onerror=window.harmed=1>&amp;'"</script><script>window.harmed=1</script>};
my $socket = q{unix:/nowhere/<b>&lt;'"<svg onload=window.harmed=1>};
sub quoted { my ($text) = @_; return '"' . $text =~ s/"/\\"/gr . '"' }

sub http {
    my ($more) = @_;
    return <<"END";
$proxy_keepalive
upstream backend { zone backend 64k; server @{[ $backend->address ]} max_conns=2; keepalive 8; queue 100; }
upstream @{[ quoted($nasty) ]} { server @{[ quoted($socket) ]}; server 127.0.0.1:1 backup; keepalive 2 per_server; http2 on; }
upstream each { server @{[ $backend->address ]} max_conns=3; keepalive 4; }
upstream auth { server @{[ $backend->address ]}; keepalive 4; }
$more
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = @{[ quoted('/auth<b>') ]} { internal; proxy_pass http://auth/; }
    location / { proxy_pass http://backend; }
    location /authorised { auth_subrequest @{[ quoted('/auth<b>') ]}; proxy_pass http://backend; }
}
END
}

my $nginx = Keepalive::Nginx->new(workers => 2, http => http(''))->start;
my $browser = Keepalive::Browser->start;

sub text_of { $browser->run('const node = document.querySelector(arguments[0]); return node && node.textContent', @_) }
sub state { text_of('#state') }

# How many requests there have been, as the page says.
sub shown {
    my ($number) = (text_of('#totals [data-as=requests]') // '') =~ /^([\d,]+) in all$/;
    return ($number // '') =~ tr/,//dr;
}

# Waits for the next numbers, of which there are new ones while the load goes on.
sub next_numbers {
    my ($title) = @_;
    my $before = shown();
    ok wait_for { shown() ne $before }, $title or diag state();
}

sub upstreams { $browser->run('return [...document.querySelectorAll("#list h3")].map(heading => heading.textContent)') }

my $load = Keepalive::Load->start($port, clients => 4, request => sub { $_[0] % 3 ? '/?delay=10' : '/authorised' });
ok $load->wait_for_more(20), 'the load has begun';

$browser->resize(1280, 900);
$browser->visit($page);
$browser->run('window.marker = "the same page"');
ok wait_for { shown() }, 'the page shows numbers';
is state(), 'Live', 'it is live';
like $browser->run('return document.contentType + " " + document.characterSet'), qr{^text/html UTF-8$}, 'it is HTML in UTF-8';

# What is in use stays as it is while the numbers change.
$browser->run(<<'END');
document.querySelectorAll('details').forEach(details => { details.open = true });
window.articles = [...document.querySelectorAll('#list article')];
document.querySelector('details summary').focus();
END
next_numbers("the numbers change, $_") for 1 .. 3;
is $browser->run('return window.marker'), 'the same page', 'without loading the page again';
ok $browser->run('return window.articles.every(article => article.isConnected && article.querySelector("details").open)'),
    'what was opened is still open';
ok $browser->run('return document.activeElement === document.querySelector("details summary")'), 'the focus stays where it is';
like text_of('#list [data-as=rate]'), qr/^[\d,]*[1-9][\d,.]*$/, 'there are requests per second';
like text_of('#list [data-as=reuse]'), qr/^\d+(?:\.\d)?%$/, 'and the share of reuse';
like $browser->run('return document.querySelector("[data-as=rateLine] path").getAttribute("d")'), qr/^M.*L/, 'and their history';
like text_of('#list [data-as=places]'), qr/^of 200$/, 'a queue has its places in each of two workers';
is text_of('#list [data-as=idle]') =~ s/^\d+//r, ' idle (limit 2)', 'a pool of 8 in each of two workers has no more room than its server allows to both';
is text_of('article:nth-of-type(3) [data-as=idle]') =~ s/^\d+//r, ' idle (limit 6)', 'without zone the server allows as many to each worker';
is text_of('article:nth-of-type(4) [data-as=idle]') =~ s/^\d+//r, ' idle (limit 8)', 'and without max_conns that is the room of both pools';

# What is known of connections that carry many requests, where there may be some.
is text_of('article:nth-of-type(2) [data-as=http2]'), 'HTTP/2: 0 requests over 0 connections, 0 in all; 0 waited, 0 refused, '
    . '0 sent again, 0 reset (0 by the server); 0 GOAWAY, 0 stalls, 0 of 0 PINGs lost.', 'HTTP/2';
is $browser->run('return [...document.querySelectorAll("[data-as=http2]")].map(line => line.hidden).join(" ")'), 'true false true true',
    'and nowhere else';

# Names are text.
is_deeply upstreams(), ['backend', $nasty, 'each', 'auth'], 'upstreams are named as in the configuration';
is text_of('article:nth-of-type(2) tbody th span'), $socket, 'and so are servers';
is text_of('#decisions th span'), '/auth<b>', 'and URIs';
is $browser->run('return document.querySelectorAll("main img, main script, main b b, th b, th svg, h3 *").length'), 0,
    'none of it is markup';
ok !$browser->run('return window.harmed'), 'nor does anything';

# The text whose contrast is below 4.5 (WCAG 2.2, success criterion 1.4.3).
my $faint = <<'END';
const channels = color => color.match(/[\d.]+/g).map(Number);
const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = node => {
    while (node && channels(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
    return luminance(getComputedStyle(node).backgroundColor);
};
const hasText = node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
return [...document.querySelectorAll('body *')].filter(node => node.checkVisibility() && hasText(node)).filter(node => {
    const [low, high] = [luminance(getComputedStyle(node).color), background(node)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5;
}).map(node => node.textContent);
END
my %background;
for my $scheme (qw(light dark)) {
    $browser->prefer('color-scheme' => $scheme);
    for my $width (1280, 390) {
        $browser->resize($width, 844);
        is $browser->run('return document.documentElement.scrollWidth - document.documentElement.clientWidth'), 0,
            "$scheme, $width pixels: nothing is wider than the window";
        is_deeply $browser->run($faint), [], "$scheme, $width pixels: all text can be read";
    }
    $background{$scheme} = $browser->run('return getComputedStyle(document.body).backgroundColor');
}
isnt $background{light}, $background{dark}, 'light is not dark';
$browser->prefer('color-scheme' => 'light', 'reduced-motion' => 'reduce');
is $browser->run('return getComputedStyle(document.querySelector("rect")).transitionDuration'), '0s', 'nothing moves if that is not wanted';

# Who does not see the page is told what it shows.
is $browser->run(<<'END'), '', 'all that needs a name has one';
const unnamed = node => !(node.getAttribute('aria-label') || document.getElementById(node.getAttribute('aria-labelledby'))
    || node.labels?.length || node.textContent.trim());
const nodes = document.querySelectorAll('[role=img], [role=group], [role=search], nav, article, input, select, button, summary, caption');
return [...nodes].filter(node => node.checkVisibility() && unnamed(node)).map(node => node.outerHTML).join();
END
is $browser->run('return [...document.querySelectorAll("[aria-live], [role=status], [role=alert], output")].map(node => node.id).join()'),
    'state', 'only the state is read out by itself';

# The filter, and the order.
sub set {
    $browser->run('const [id, value] = arguments; const node = document.getElementById(id); node.value = value;'
        . 'for (const type of ["input", "change"]) node.dispatchEvent(new Event(type, { bubbles: true }))', @_);
}
sub visible {
    return $browser->run('return [...document.querySelectorAll("article")].filter(node => node.checkVisibility())'
        . '.map(node => node.querySelector("h3").textContent)');
}
$browser->resize(1280, 900);
set(filter => 'BACK');
is_deeply visible(), ['backend'], 'filtered by the name of an upstream';
set(filter => '/nowhere/<b>');
is_deeply visible(), [$nasty], 'filtered by the name of a server';
next_numbers('the numbers change');
is_deeply visible(), [$nasty], 'and it stays filtered';
set(filter => '');
set(order => 'name');
is_deeply visible(), [sort { lc $a cmp lc $b } 'backend', $nasty, 'each', 'auth'], 'in order of the names';
set(order => '');
is_deeply visible(), ['backend', $nasty, 'each', 'auth'], 'and in that of the configuration';

# Whether the page asks for numbers, for longer than it takes to ask twice.
sub asks { $browser->requests; sleep 4.5; return scalar $browser->requests }
sub press { $browser->run('document.getElementById("pause").click()') }
sub hide {
    $browser->run('Object.defineProperty(document, "hidden", { get: () => arguments[0], configurable: true });'
        . 'document.dispatchEvent(new Event("visibilitychange"))', @_);
}
my @requests = $browser->requests;
cmp_ok asks(), '<=', 3, 'numbers are asked for every two seconds';
press();
is asks(), 0, 'not while that is paused';
is state(), 'Paused', 'which it says';
press();
next_numbers('then it goes on');
hide(JSON::PP::true);
is asks(), 0, 'not while the page is hidden';
hide(JSON::PP::false);
next_numbers('then it goes on');

# nginx takes its time: it is not asked again meanwhile.
kill STOP => $nginx->workers;
cmp_ok asks(), '<=', 1, 'one request at a time';
is state(), 'Live', 'a slow answer is none that is missing';
kill CONT => $nginx->workers;
next_numbers('it comes, and the page goes on');

# A reload of nginx, with one upstream more.
$nginx->configure(http => http('upstream another { server 127.0.0.1:1; keepalive 1; }'));
$nginx->reload;
ok wait_for { grep { $_ eq 'another' } @{ upstreams() } }, 'after a reload of nginx a new upstream is there';
next_numbers('and the numbers change');
is state(), 'Live', 'it is live all the time';

my ($answers, @failures) = $load->stop;
is "@failures", '', "no request of $answers fails";
my $sum = $backend->stats->{requests};
ok wait_for { shown() == $sum }, "at the end it shows all $sum requests" or diag shown();
is_deeply [$browser->console], [], 'the console is empty';
push @requests, $browser->requests;
is_deeply [grep { $_ ne "GET $page?format=json" } @requests], ["GET $page"], 'nothing was loaded but the page, once, and the numbers';

# No answer.
$nginx->stop;
ok wait_for { state() =~ /^Not reachable since \d\d:\d\d:\d\d: no connection$/ }, 'it says that nginx does not answer' or diag state();
like text_of('#when'), qr/^Trying again\. The numbers are of \d\d:\d\d:\d\d\.$/, 'and of when the numbers are';
my $said = state();
sleep 2.5;
is state(), $said, 'and says so once';
$nginx->start;
ok wait_for { state() eq 'Live' }, 'and when it answers again';
get($port, '/');
ok wait_for { shown() eq '1' }, 'with new numbers' or diag shown();
is $browser->run('return window.marker'), 'the same page', 'without loading the page again';
is_deeply [grep { !/ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/ } $browser->console], [], 'only the browser complains';

# Without JavaScript there are links.
my ($instead) = get($port, '/status', headers => { Accept => 'text/html' })->{body} =~ m{<noscript>(.*?)</noscript>}s;
like $instead // '', qr/href="\?format=$_"/, "without JavaScript there is a link to $_" for qw(json prometheus);
$nginx->stop;

# What was learned of a server, and the connections that are closed for it.
{
    my $taught = Keepalive::Nginx->new(http => <<"END")->start;
$proxy_keepalive
upstream taught { server @{[ $backend->address ]}; server 127.0.0.1:1 backup; keepalive 4; }
server { listen 127.0.0.1:$port; location = /status { keepalive_status; } location / { proxy_pass http://taught; } }
END
    my $status = Keepalive::Status->new($port);
    $status->teach(taught => '/');
    $status->apply_lesson(taught => '/');
    $browser->visit($page);
    ok wait_for { @{ upstreams() } == 1 }, 'the upstream is shown';
    $browser->run('document.querySelector("details").open = true');
    my $notes = $browser->run('return [...document.querySelectorAll("[data-as=peers] small")].map(note => note.textContent)');
    like $notes->[0], qr/^closes idle connections after 2[0-4]\d ms \([4-8] closes agree\)$/, 'what was learned of a server is told';
    is $notes->[1], 'backup', 'and nothing of the other one';
    ok wait_for { text_of('[data-as=closed]') =~ /server closes soon, as learned\s*\d/ }, 'and why connections are closed'
        or diag text_of('[data-as=closed]');
    is_deeply [$browser->console], [], 'the console is empty';
    $taught->stop;
}

# What is wrong with a pool that reuses nothing.
{
    my $hinted = Keepalive::Nginx->new(http => <<"END")->start;
upstream fine { server @{[ $backend->address ]}; keepalive 4; }
upstream inert { server @{[ $backend->address ]}; keepalive 4; }
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location /fine { $proxy_keepalive proxy_pass http://fine; }
    location /inert { proxy_http_version 1.1; proxy_set_header Connection close; proxy_pass http://inert; }
}
END
    get($port, $_) for ('/fine', '/inert') x 64;
    $browser->visit($page);
    ok wait_for { @{ upstreams() } == 2 }, 'the upstreams are shown';
    is $browser->run('return document.querySelector("article .hint").checkVisibility()'), JSON::PP::false, 'a pool that works has no hint';
    is text_of('article:nth-of-type(2) .hint'), '0 of the last 64 requests reused a connection: requests are sent with "Connection: close"; '
        . 'set proxy_set_header Connection "", or "" instead of close in a map of $http_upgrade.', 'one that does not has one';
    is text_of('#count'), '2, 1 with a hint', 'and they are counted';
    set(order => 'hint');
    is_deeply visible(), ['inert', 'fine'], 'in order of the hints';
    for my $scheme (qw(light dark)) {
        $browser->prefer('color-scheme' => $scheme);
        for my $width (1280, 360) {
            $browser->resize($width, 844);
            is $browser->run('return document.documentElement.scrollWidth - document.documentElement.clientWidth'), 0,
                "$scheme, $width pixels: nothing is wider than the window";
            is_deeply $browser->run($faint), [], "$scheme, $width pixels: the hint can be read";
            $browser->screenshot("$ENV{TEST_NGINX_PICTURES}/hint-$scheme-$width.png") if $ENV{TEST_NGINX_PICTURES};
        }
    }
    is_deeply [$browser->console], [], 'the console is empty';
    set(order => '');
    $hinted->stop;
}

# A thousand upstreams with ten servers each.
{
    my $upstreams = join '', map {
        my $number = $_;
        "upstream u$number { keepalive 10; " . join('', map { "server 127.0.0.1:$_; " } 10000 .. 10009) . "}\n"
    } 1 .. 1000;
    my $large = Keepalive::Nginx->new(http => <<"END")->start;
$upstreams
server { listen 127.0.0.1:$port; location = /status { keepalive_status; } }
END
    $browser->visit($page);
    ok wait_for { @{ upstreams() } == 1000 }, 'a thousand upstreams are shown';
    is $browser->run('return document.querySelectorAll("#list table").length'), 0, 'without their servers';
    $browser->run('document.querySelectorAll("details")[700].open = true');
    ok wait_for { $browser->run('return document.querySelectorAll("#list [data-as=peers] tr").length') == 10 },
        'which are there when asked for';
    my $took = $browser->run('const begun = performance.now(); show(data); return performance.now() - begun');
    cmp_ok $took, '<', 1000, 'showing the numbers takes less than a second';
    diag sprintf 'the numbers of 10,000 servers are shown in %.0f ms', $took;
    set(filter => 'u77');
    is scalar @{ visible() }, 11, 'the filter finds what it should';
    is_deeply [$browser->console], [], 'the console is empty';
    $large->stop;
}

# A picture of the page for the documents, if one is asked for: TEST_NGINX_PICTURE=docs/status-page.png
take_picture($ENV{TEST_NGINX_PICTURE}) if $ENV{TEST_NGINX_PICTURE};

$browser->stop;
done_testing;

# Three application servers with a queue, two authorisation servers, and more clients than connections, for a minute.
sub take_picture {
    my ($file) = @_;
    my @app = map { Keepalive::Backend->start } 1 .. 3;
    my @auth = map { Keepalive::Backend->start } 1 .. 2;
    my $busy = Keepalive::Nginx->new(workers => 2, http => <<"END")->start;
proxy_http_version 1.1;
proxy_set_header Connection "";
upstream app { @{[ map { 'server ' . $_->address . ' max_conns=4;' } @app ]} keepalive 12; queue 200; }
upstream auth { @{[ map { 'server ' . $_->address . ';' } @auth ]} keepalive 16; }
server {
    listen 127.0.0.1:$port;
    location = /status { keepalive_status; }
    location = /auth { internal; proxy_pass http://auth/?delay=5; }
    location / { auth_subrequest /auth; proxy_pass http://app; }
}
END
    # The clients pause now and then, each for itself, so that there is something to see in the history.
    my $clients = Keepalive::Load->start($port, clients => 40, request => sub {
        sleep rand 1 if rand() < 0.1;
        return '/?delay=' . (60 + int rand 80);
    });
    $browser->prefer('color-scheme' => 'light');
    $browser->resize(960, 900);
    $browser->visit($page);
    sleep 60;
    ok wait_for { (text_of('#list [data-as=waiting]') // '') =~ /[1-9]/ }, 'requests wait when the picture is taken';
    $browser->run('document.querySelector("details").open = true');
    $browser->resize(960, $browser->run('return document.documentElement.scrollHeight'));
    sleep 0.5;
    $browser->screenshot($file);
    my ($answers, @failures) = $clients->stop;
    is "@failures", '', "and none of $answers fails";
    $busy->stop;
}
