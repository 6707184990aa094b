package Keepalive::Auth;

# For the files about auth_request and auth_subrequest: a site whose requests are authorised by another server first. Each
# request chooses what that server does, in its header X-Auth.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;

use Keepalive::Backend;
use Keepalive::Client ();
use Keepalive::Nginx;
use Keepalive::Setup;

our @EXPORT = qw(script values_of curl http2_listen);

# Keepalive::Auth->new(locations => '...', server => '...', http => '...', auth => '...', queue => '...')
#
# The upstreams are `app` and `auth`; location /auth passes to `auth`. `locations` is the inside of the server block,
# `http` is added to the http block, `auth` to location /auth, `upstream_auth` to the upstream; all other options are
# those of Keepalive::Nginx.
sub new {
    my ($class, %options) = @_;
    my ($locations, $http, $inside, $upstream) = map { delete $options{$_} // '' } qw(locations http auth upstream_auth);
    my $self = bless { port => free_port(), map { $_ => Keepalive::Backend->start } qw(app auth) }, $class;
    my $server = $upstream =~ /\bserver\b/ ? '' : 'server ' . $self->{auth}->address . ';';
    $upstream .= ' keepalive 16;' unless $upstream =~ /\bkeepalive\b/;
    $self->{nginx} = Keepalive::Nginx->new(connections => 2048, %options, http => <<"END");
$proxy_keepalive
upstream app { server @{[ $self->{app}->address ]}; keepalive 16; }
upstream auth { $server $upstream }
$http
server {
    listen 127.0.0.1:$self->{port};
    location = /auth {
        internal;
        proxy_pass http://auth/?\$http_x_auth;
        $inside
    }
    location = /settled { return 200 settled; }
    $locations
}
END
    return $self;
}

sub start { $_[0]{nginx}->start; return $_[0] }
sub stop { $_[0]{nginx}->stop }

# Begins a request, with a script for the authorisation server: $site->begin('/path', 'status=401', ...).
# Further options are those of Keepalive::Client.
sub begin {
    my ($self, $path, $script, %options) = @_;
    my $headers = $options{headers} || [];
    $headers = [map { "$_: $headers->{$_}" } sort keys %$headers] if ref $headers eq 'HASH';
    return Keepalive::Client::begin($self->{port}, $path, %options, headers => ["X-Auth: $script", @$headers]);
}

sub get { my $self = shift; return $self->begin(@_)->finish }

sub status { my $self = shift; return $self->get(@_)->{status} }

# How many requests each server has got since the last call: 'auth 1, app 1'.
sub asked {
    my ($self) = @_;
    my @told;
    for my $name (qw(auth app)) {
        my $requests = $self->{$name}->stats->{requests};
        push @told, "$name " . ($requests - ($self->{"${name}_requests"} // 0));
        $self->{"${name}_requests"} = $requests;
    }
    return join ', ', @told;
}

# What was added to the error log since the last call.
sub log_since {
    my ($self) = @_;
    my $log = $self->{nginx}->error_log;
    my $new = substr $log, $self->{log_length} // 0;
    $self->{log_length} = length $log;
    return $new;
}

# Closes the idle connections to both servers, and tests that no others are open.
sub expect_no_connection {
    my ($self, $title) = @_;
    for my $name (qw(auth app)) {
        $self->{$name}->drop;
        ok wait_for { !$self->{$name}->stats->{open} }, "$title: no connection to $name is left"
            or diag JSON::PP::encode_json($self->{$name}->stats);
    }
}

# The number of descriptors of the worker, without any connection.
sub descriptors {
    my ($self) = @_;
    for my $name (qw(auth app)) {
        $self->{$name}->drop;
        wait_for { !$self->{$name}->stats->{open} };
    }
    get($self, '/settled', '') for 1, 2;
    return $self->{nginx}->descriptors;
}

# A script for the backend (see t/backend/src/script.rs): script(status => 401, header => 'WWW-Authenticate:Basic').
sub script {
    my @words;
    while (my ($name, $value) = splice @_, 0, 2) {
        $value =~ s/([^\w.:-])/sprintf '%%%02X', ord $1/ge;
        push @words, "$name=$value";
    }
    return join '&', @words;
}

# All values of a header, in order: of an answer, or of a request that the backend has reported.
sub values_of {
    my ($name, $message) = @_;
    return map { /^\Q$name\E:\s*(.*)$/i ? $1 : () } @{ $message->{lines} || $message->{headers} };
}

# An answer over HTTP/2. nginx resets a stream whose body it does not want. If curl is still sending then, it loses the answer,
# so this tries again.
sub curl {
    my ($port, $path, @options) = @_;
    my @command = ('curl', '-s', '-i', '--max-time', 10, '--http2-prior-knowledge', @options, "http://127.0.0.1:$port$path");
    my $text = '';
    for (1 .. 10) {
        open my $output, '-|', @command or last;
        local $/;
        $text = <$output> // '';
        close $output;
        # 28: timeout.
        last if $text ne '' || $? >> 8 == 28;
    }
    $text =~ s{^HTTP/2 (\d+)}{HTTP/1.1 $1};
    return Keepalive::Client::parse($text);
}

# A listen directive for HTTP/2; undef if nginx or curl cannot speak it.
sub http2_listen {
    my ($port) = @_;
    return unless has_feature('with-http_v2_module') && `curl --version 2>/dev/null` =~ /^Features:.*\bHTTP2\b/m;
    return version_at_least('1.25.1') ? "listen 127.0.0.1:$port; http2 on;" : "listen 127.0.0.1:$port http2;";
}

1;
