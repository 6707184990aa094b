package Keepalive::Unread;

# For the files about keepalive_drain: requests in all the ways in which nginx reads only the header of an answer, and checks of
# the connection afterwards.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;
use Time::HiRes ();

use Keepalive::Backend;
use Keepalive::Client ();
use Keepalive::Queue ();
use Keepalive::Setup;

our @EXPORT = qw(chunked);

# Keepalive::Unread->new($backend, { name => 'inside of upstream name' }, options of queue_nginx)
#
# The answers of upstream `name` are read when /name/ask is asked for, and left unread for /name/auth, /name/mirror,
# /name/accel (X-Accel-Redirect), /name/intercept (error_page) and /name/next (the next server). There the client's answer comes
# from another server, the pages. An upstream named tls.. uses TLS, and one named fastcgi.. FastCGI.
sub new {
    my ($class, $backend, $upstreams, %options) = @_;
    my $pages = Keepalive::Backend->start;
    my $self = bless { port => $options{port} // free_port(), backend => $backend, pages => $pages }, $class;
    my $locations = delete $options{locations} // '';
    $locations .= /^fastcgi/ ? fastcgi_ways($_) : ways($_, /^tls/ ? 'https' : 'http') for sort keys %$upstreams;
    $self->{nginx} = Keepalive::Queue::queue_nginx($self->{port}, $upstreams, %options, locations => <<"END",
    location = /instead { proxy_pass http://pages/; }
    $locations
END
        http => "upstream pages { server @{[ $pages->address ]}; keepalive 128; }\n" . ($options{http} // ''))->start;
    # From now on there is always one open connection to the pages.
    Keepalive::Client::get($self->{port}, '/instead');
    return $self;
}

# The script of the answer that stays unread is in the request header X-Script.
sub ways {
    my ($name, $scheme) = @_;
    return <<"END";
    location /$name/auth { auth_request /$name/ask; proxy_pass http://pages; }
    location /$name/mirror { mirror /$name/ask; proxy_pass http://pages; }
    location /$name/ask {
        proxy_pass $scheme://$name/?\$http_x_script;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Connection "";
    }
    location /$name/accel { proxy_pass $scheme://$name/?header=X-Accel-Redirect:/instead&\$http_x_script; }
    location /$name/intercept {
        proxy_intercept_errors on;
        error_page 401 404 500 = /instead;
        proxy_pass $scheme://$name/?\$http_x_script;
    }
    location /$name/next {
        proxy_next_upstream http_403 http_404 http_429 http_500 http_503;
        proxy_pass $scheme://$name/?\$http_x_script;
    }
END
}

# The same for FastCGI. Scripts of /$name/.. are in the request header X-Script too.
sub fastcgi_ways {
    my ($name) = @_;
    my $method = 'fastcgi_param REQUEST_METHOD $request_method;';
    return <<"END";
    location /$name/auth { auth_request /$name/ask; proxy_pass http://pages; }
    location /$name/mirror { mirror /$name/ask; proxy_pass http://pages; }
    location /$name/ask {
        fastcgi_pass $name;
        fastcgi_keep_conn on;
        fastcgi_pass_request_body off;
        fastcgi_param QUERY_STRING \$http_x_script;
        $method
    }
    location /$name/accel {
        fastcgi_pass $name;
        fastcgi_keep_conn on;
        fastcgi_param QUERY_STRING header=X-Accel-Redirect:/instead&\$http_x_script;
        $method
    }
    location /$name/intercept {
        fastcgi_pass $name;
        fastcgi_keep_conn on;
        fastcgi_intercept_errors on;
        error_page 401 404 500 = /instead;
        fastcgi_param QUERY_STRING \$http_x_script;
        $method
    }
    location /$name/next {
        fastcgi_pass $name;
        fastcgi_keep_conn on;
        fastcgi_next_upstream http_403 http_404 http_429 http_500 http_503;
        fastcgi_param QUERY_STRING \$http_x_script;
        $method
    }
END
}

# Begins a request whose upstream's answer, by this script, is left unread.
sub begin {
    my ($self, $name, $way, $script, %options) = @_;
    return Keepalive::Client::begin($self->{port}, "/$name/$way", %options, headers => { 'X-Script' => $script });
}

# The status that the client gets.
sub status { my $self = shift; return $self->begin(@_)->finish->{status} }

# Requests an answer that is read, and returns the numbers of its connection and of the request on it. It has the usual form
# unless it contains bytes of an older answer.
sub who {
    my ($self, $name) = @_;
    my $answer = Keepalive::Client::get($self->{port}, "/$name/ask");
    my ($connection, $request) = @{ $answer->{headers} }{qw(x-connection x-request)};
    return ($connection, $request) if $answer->{status} == 200 && $answer->{complete}
        && $answer->{body} =~ /\Aconnection \d+ request \d+\n\z/ && defined $request;
    fail "$name: an ordinary answer";
    diag explain $answer;
    return (0, 0);
}

# The number of nginx's open descriptors; between requests it shows cheaply whether a connection was closed.
sub open_now { $_[0]{nginx}->descriptors }

# Returns when the backend has sent everything, and nginx has read it, unless it is more than a socket buffer holds.
sub settle {
    my ($self) = @_;
    my $backend = $self->{backend};
    wait_for { !grep { $backend->stats($_)->{busy} } 0 .. $#{ $backend->{addresses} } };
    Keepalive::Queue::settle($self->{port}) for 1, 2;
}

# Tests that the next request goes over the connection of an answer that was left unread.
sub kept {
    my ($self, $name, $way, $script, $status, $title) = @_;
    my ($connection, $before) = $self->who($name);
    my $requests = $self->{backend}->requests;
    my $got = $self->status($name, $way, $script);
    wait_for { $self->{backend}->requests > $requests };
    $self->settle;
    my ($next, $after) = $self->who($name);
    my $fate = $next != $connection ? 'closed' : $after == $before + 2 ? 'kept' : "request $after instead of $before + 2";
    return is "$got, $fate", "$status, kept", $title // "$name, $way: $script";
}

# Tests that the next request uses another connection, and that nginx has closed this one: at once, or within this many seconds.
sub closed {
    my ($self, $name, $way, $script, $status, $title, $seconds) = @_;
    my ($connection) = $self->who($name);
    my ($requests, $open) = ($self->{backend}->requests, $self->open_now);
    my $begun = Time::HiRes::time();
    my $got = $self->status($name, $way, $script);
    wait_for { $self->{backend}->requests > $requests && $self->open_now < $open };
    my $took = Time::HiRes::time() - $begun;
    my ($next, $after) = $self->who($name);
    my $fate = $next == $connection ? 'kept' : $after == 1 ? 'closed' : "request $after of connection $next";
    $fate .= sprintf ' after %.2f s', $took if $took > ($seconds // 0.9);
    return is "$got, $fate", "$status, closed", $title // "$name, $way: $script";
}

# Tests that nothing is left open (if a number is given, no more descriptors than this), and stops nginx.
sub stop {
    my ($self, $descriptors) = @_;
    my ($backend, $nginx) = @$self{qw(backend nginx)};
    if ($descriptors) {
        ok wait_for { $nginx->descriptors <= $descriptors }, 'no descriptor is left'
            or diag $nginx->descriptors . " instead of $descriptors";
    }
    $_->drop for $backend, $self->{pages};
    ok wait_for { !grep { $backend->stats($_)->{open} } 0 .. $#{ $backend->{addresses} } }, 'no connection is left';
    $nginx->stop;
}

# The script of an answer whose body has this framing, valid or invalid.
sub chunked {
    my ($bytes) = @_;
    $bytes =~ s/([^\w.:-])/sprintf '%%%02X', ord $1/ge;
    return "framing=eof&stay=1&header=Transfer-Encoding:chunked&body=$bytes";
}

1;
