package Keepalive::Browser;

# A headless Chromium, driven by chromedriver's HTTP protocol (https://www.w3.org/TR/webdriver2/), with its
# console messages and its network requests.

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use POSIX ();

use Keepalive::Setup;

my $json = JSON::PP->new->utf8->allow_nonref;
my $count = 0;
my @running;

# The path of the first of these programs that exists.
sub program {
    my ($path) = grep { -x } map { my $name = $_; map { "$_/$name" } split /:/, $ENV{PATH} } @_;
    return $path;
}

my $browser = program(qw(chromium chromium-browser google-chrome));
my $driver = program('chromedriver');

# What is missing for a browser; empty if nothing is missing.
sub missing { join ' and ', $browser ? () : 'chromium', $driver ? () : 'chromedriver' }

# Starts chromedriver, and a browser with an empty profile.
sub start {
    my ($class) = @_;
    my $profile = work_dir() . '/browser' . ++$count;
    mkdir $profile or die "$profile: $!";
    my $http = HTTP::Tiny->new(timeout => 60, http_proxy => undef);
    my $self = bless { owner => $$, profile => $profile, port => free_port(), http => $http }, $class;
    push @running, $self;
    $self->start_driver;
    $self->{session} = '/session/' . $self->new_session->{sessionId};
    return $self;
}

# chromedriver and the browser have their own process group. If the test is killed, `timeout` ends them.
sub start_driver {
    my ($self) = @_;
    my $log = "$self->{profile}.log";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        POSIX::setsid();
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $log;
        open STDERR, '>&', \*STDOUT;
        exec('timeout', 600, $driver, "--port=$self->{port}") or POSIX::_exit(127);
    }
    $self->{driver} = $pid;
    wait_for { my $status = eval { $self->call(GET => '/status') }; $status && $status->{ready} }
        or die "chromedriver does not start, see $log\n";
}

sub new_session {
    my ($self) = @_;
    my @flags = qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --disable-dev-shm-usage);
    return $self->call(POST => '/session', { capabilities => { alwaysMatch => {
        'goog:chromeOptions' => {
            binary => $browser,
            args => [@flags, "--user-data-dir=$self->{profile}"],
        },
        'goog:loggingPrefs' => { browser => 'ALL', performance => 'ALL' },
    } } });
}

# Sends a command; dies if it fails.
sub call {
    my ($self, $method, $path, $arguments) = @_;
    my %request;
    $request{content} = $json->encode($arguments || {}) if $method eq 'POST';
    $request{headers}{'Content-Type'} = 'application/json' if $method eq 'POST';
    my $answer = $self->{http}->request($method, "http://127.0.0.1:$self->{port}$path", \%request);
    my $told = eval { $json->decode($answer->{content})->{value} };
    die(ref $told eq 'HASH' && $told->{message} || $answer->{content}) if !$answer->{success};
    return $told;
}

# Sends a command of the session.
sub command {
    my ($self, $path, $arguments) = @_;
    return $self->call(POST => $self->{session} . $path, $arguments);
}

sub visit { $_[0]->command('/url', { url => $_[1] }) }

# Runs JavaScript in the page: a function body with `arguments`. Returns its result.
sub run {
    my ($self, $script, @arguments) = @_;
    return $self->command('/execute/sync', { script => $script, args => \@arguments });
}

# Sends a command of Chromium's own protocol (https://chromedevtools.github.io/devtools-protocol/).
sub devtools {
    my ($self, $name, $parameters) = @_;
    return $self->command('/goog/cdp/execute', { cmd => $name, params => $parameters || {} });
}

# The size of the window, in CSS pixels.
sub resize {
    my ($self, $width, $height) = @_;
    my $false = JSON::PP::false;
    $self->devtools('Emulation.setDeviceMetricsOverride',
        { width => $width, height => $height, deviceScaleFactor => 1, mobile => $false });
}

# Sets a preference of the user: prefer('color-scheme' => 'dark').
sub prefer {
    my ($self, %features) = @_;
    my @features = map { { name => "prefers-$_", value => $features{$_} } } sort keys %features;
    $self->devtools('Emulation.setEmulatedMedia', { features => \@features });
}

# The messages in the console since the last call, as 'LEVEL text'.
sub console {
    my ($self) = @_;
    return map { "$_->{level} $_->{message}" } @{ $self->command('/se/log', { type => 'browser' }) };
}

# The requests since the last call, in order, as 'METHOD url', without data: URLs and the browser's own first page.
sub requests {
    my ($self) = @_;
    my @events = map { $json->decode(_bytes($_->{message}))->{message} } @{ $self->command('/se/log', { type => 'performance' }) };
    my @requests = map { $_->{params}{request} } grep { $_->{method} eq 'Network.requestWillBeSent' } @events;
    return map { "$_->{method} $_->{url}" } grep { $_->{url} !~ /^(?:data|chrome(?:-\w+)?):/ } @requests;
}

sub _bytes { my ($text) = @_; utf8::encode($text); return $text }

# Writes a PNG of the window to a file.
sub screenshot {
    my ($self, $file) = @_;
    open my $out, '>:raw', $file or die "$file: $!";
    print $out decode_base64($self->call(GET => "$self->{session}/screenshot"));
    close $out or die "$file: $!";
}

# Stops the browser and chromedriver.
sub stop {
    my ($self) = @_;
    my $pid = delete $self->{driver} or return;
    local ($?, $!, $@);
    $self->{http}->timeout(5);
    eval { $self->call(DELETE => $self->{session}) } if $self->{session};
    kill KILL => -$pid;
    waitpid $pid, 0;
}

# A test that dies must not leave a browser running.
END {
    $_->stop for grep { $_->{owner} == $$ } @running;
}

1;
