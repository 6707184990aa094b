package Keepalive::Faults;

# What can happen to a connection and to a request, and which file of t/ shows it.
#
# Each file of t/ has one of these lines at its top, or several:
#
#     # faults: F1.2 "closed while idle" "another title"
#     # about: configuration
#
# The first line names a fault of the list below, and titles of tests (or other parts of lines) of this file that show it. The
# second line is for files that are not about faults. t/lib/fault-table.pl writes the tables of t/README.md from these lines.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(fault_files read_file headings missing shown tables table_in with_table);

# Number, description, and after a bar a note for the table. A number without a point is a group. A fault without a file needs
# a note that says why.
my $faults = <<'END';
F1    The server closes the connection
F1.1  right after its answer, before the connection is stored
F1.2  while the connection is stored
F1.3  when the connection is taken from the pool
F1.4  when the request is on its way, or has arrived
F1.5  in the middle of its answer
F2    The server resets the connection
F2.1  right after its answer
F2.2  while the connection is stored
F2.3  when the connection is taken from the pool
F2.4  when the request is on its way, or has arrived
F2.5  in the middle of its answer
F2.6  the first write fails
F3    A request on a stale connection
F3.1  GET, POST and other methods, without a body, and with a body in memory, in a file, in chunks
F3.2  a body that is not buffered
F3.3  `non_idempotent`, and no retries at all
F3.4  another module has settings for the request, or the balancer has settings for its server
F4    A whole pool is stale
F4.1  the request is answered, without a long wait
F4.2  no server is marked as failed
F5    A gateway on the way forgets connections
F5.1  only a timeout shows it
F6    Unsolicited bytes
F6.1  after the answer
F6.2  while the connection is stored, and when it is taken from the pool
F6.3  HTTP/2: PING, SETTINGS, GOAWAY and other frames
F6.4  HTTP/2: the server says that it has not processed the request
F6.5  a 408 response
F7    Framing
F7.1  HTTP/1.0, with and without `Connection: keep-alive`
F7.2  `Connection: close` in the answer and in the request; `Proxy-Connection`
F7.3  the answer ends with the connection
F7.4  1xx, 101, 204, 304, HEAD
F7.5  the records of FastCGI
F7.6  chunks and trailers
F8    An incomplete request body
F8.1  the server answers before nginx has sent the whole body, or nginx never sends it
F9    The client leaves
F9.1  while nginx connects, or during the TLS handshake
F9.2  in the queue
F9.3  in its request body
F9.4  before the answer, and in it
F10   Another identity
F10.1 name, certificate, verification, authority, local address
F10.2 protocol, location, address
F10.3 a user who was authenticated on the connection (NTLM, Negotiate)
F10.4 PROXY protocol | Cannot be tested: nginx sends it in `stream` only, so no connection of a pool carries it.
F10.5 the descriptor belongs to another server's connection now
F11   Limits
F11.1 `keepalive_requests` 0, 1, N
F11.2 `keepalive_time`, `keepalive_timeout`
F11.3 least recently used
F11.4 `keepalive` 0 and 1
F11.5 a `Keep-Alive` header: 0, 1, huge, garbage, in several headers
F11.6 a limit that the server does not announce, and that changes; closes that are no limit
F12   `max_conns`
F12.1 a connection that is never established is not counted
F12.2 every way to end releases the slot, and the count returns to zero
F12.3 a worker that holds slots is killed
F12.4 a worker is killed or stopped between any two writes to shared memory | Unit tests: `src/ledger/killed.rs`, `src/ledger/turns.rs`
F13   The queue
F13.1 full, timeout, order, a client that leaves
F13.2 a server goes down, or comes back
F13.3 a reload
F13.4 `resolve` changes the servers
F13.5 `proxy_connect_timeout` is shorter than the wait
F13.6 a subrequest waits; a subrequest and its main request need the same server
F13.7 balancers, protocols, bodies, pages, workers that hang
F13.8 many waits that time out, many servers
F14   Signals to nginx
F14.1 reload, with the module and without
F14.2 quit, terminate
F14.3 a worker crashes
F14.4 binary upgrade, and back
F14.5 the counters of all workers, after each of these | When the master of nginx quits or terminates, these counters end with it.
F15   Resources
F15.1 `worker_connections` are used up
F15.2 descriptors, and ports
F15.3 memory: reload after reload, and none to spare
F15.4 shared memory
F16   Timers
F16.1 the request's timeouts hold on a connection from the pool
F16.2 `read->delayed` of `proxy_limit_rate`
F17   Upstreams
F17.1 without a block; made when a name is resolved
F17.2 made by another module while nginx runs | Cannot be tested: in nginx itself only a resolved name makes one.
F17.3 with and without a zone; backup; a single server
F17.4 all servers down
F17.5 modules of others that wrap peers, requests and answers: Lua, headers-more, njs, echo, fair, all in one nginx
F18   TLS
F18.1 sessions are saved, each for its identity
F18.2 the server sends close_notify
F18.3 tickets of TLS 1.3 and new keys while the connection is idle
F19   An allocation fails
F19.1 each allocation, for each kind of request
F19.2 while the configuration is read, and at a reload
F20   Authorisation
F20.1 2xx, with and without a body: also large, in chunks, slow
F20.2 3xx, 401 with several challenges, 403, 429, 5xx
F20.3 no answer in time; connection refused
F20.4 the request has a body
F20.5 clients of HTTP/2 and HTTP/3
F20.6 access is never granted by accident: an error page or a redirect in the subrequest, no server, no page in time
F20.7 a redirect to a location that sends the body too; a body that is no longer there
F20.8 a denial with an error page of its own; statuses of nginx itself; `auth_delay`
F20.9 internal redirects; `satisfy any`; cached decisions; variables; headers
F20.10 no location answers but the one that asks
F21   Connections change workers
F21.1 the worker that gives, or the one that takes, is killed
F21.2 the server closes or resets the connection while it is in transit, or before it is given
F21.3 unread bytes, before the connection is given and while it is in transit
F21.4 a worker hangs, a client leaves, or a reload comes while a connection is in transit
F21.5 the next configuration has no use for the connection
F21.6 no descriptor, connection or memory for it
F22   Many requests over one connection
F22.1 GOAWAY: a new stream after it, a repeat above the last stream, a goodbye that counts as a failure
F22.2 the limit of streams is lowered; streams that are counted wrongly after a reset
F22.3 a slow reader, or an upload that nobody reads, stalls the others
F22.4 windows that are lost by padding, resets and clients that leave
F22.5 a dead connection swallows all requests; one timeout or one bad answer is the end of all
F22.6 the servers have unequal loads
F22.7 answers are mixed up
F22.8 floods and bombs: settings, header blocks, resets, empty frames
F22.9 smuggling: line ends in a value, wrong lengths, an end too early
END

# Files that are not about faults.
my $subjects = <<'END';
configuration  what is accepted in a configuration
status         what the module reports: the status page, metrics, variables, warnings
protocols      protocols
cost           what the module costs
documents      the documents, and the structure of the sources
END

my (@faults, %group, %note, %text, @subjects, %subject);
for my $line (split /\n/, $faults) {
    my ($id, $text, $note) = $line =~ /^(F[\d.]+) +(.*?)(?: \| (.*))?$/ or die "not a fault: $line\n";
    ($text{$id}, $note{$id}) = ($text, $note);
    push @faults, $id if $id =~ /\./;
}
for my $line (split /\n/, $subjects) {
    my ($subject, $text) = $line =~ /^(\w+) +(.*)$/ or die "not a subject: $line\n";
    push @subjects, $subject;
    $subject{$subject} = $text;
}

sub read_file {
    my ($file) = @_;
    open my $in, '<:encoding(UTF-8)', $file or die "$file: $!";
    local $/;
    return <$in>;
}

# Parses these lines of a file's text: the faults, each with its titles; the subjects; and the errors in these lines.
sub headings {
    my ($text) = @_;
    my ($top) = $text =~ /\A((?:#.*\n)*)/;
    my $rest = substr $text, length $top;
    my %said = (faults => {}, subjects => [], wrong => []);
    for my $line ($top =~ /^# ((?:faults|about):.*)$/mg) {
        if ($line =~ /^faults: (F[\d.]+)((?: "[^"]+")+)$/) {
            my ($id, $titles) = ($1, $2);
            push @{ $said{wrong} }, "there is no fault $id" unless $id =~ /\./ && defined $text{$id};
            for my $title ($titles =~ /"([^"]+)"/g) {
                push @{ $said{faults}{$id} }, $title;
                push @{ $said{wrong} }, "no test is called: $title" if index($rest, $title) < 0;
            }
        }
        elsif ($line =~ /^about: (\w+)$/ && $subject{$1}) { push @{ $said{subjects} }, $1 }
        else { push @{ $said{wrong} }, "not understood: $line" }
    }
    push @{ $said{wrong} }, 'no line "# faults: .." or "# about: .."' unless %{ $said{faults} } || @{ $said{subjects} };
    return \%said;
}

# The headings of all files of t/, by their names without "t/".
sub fault_files {
    return { map { m{^t/(.*)} ? ($1 => headings(read_file($_))) : () } glob 't/*/*.t' };
}

# The faults without a file or a reason why there is none.
sub missing {
    my ($files) = @_;
    my %shown = map { map { ($_ => 1) } keys %{ $_->{faults} } } values %$files;
    return grep { !$shown{$_} && !$note{$_} } @faults;
}

# A file's name as the tables have it. There is a folder "docs" beside t/ as well.
sub shown { return $_[0] =~ m{^docs/} ? "`t/$_[0]`" : "`$_[0]`" }

# Both tables.
sub tables {
    my ($files) = @_;
    my @names = sort keys %$files;
    my @rows = ('| | Fault | Tests |', '|---|---|---|');
    my $last = '';
    for my $id (@faults) {
        my $group = $id =~ s/\..*//r;
        my @tests;
        for my $name (@names) {
            my $titles = $files->{$name}{faults}{$id} or next;
            push @tests, join ' ', shown($name), map { "*$_*" } @$titles;
        }
        my $tests = join '; ', @tests;
        $tests .= (length $tests ? '. ' : '') . $note{$id} if $note{$id};
        push @rows, "| $id | " . ($group eq $last ? '' : "**$text{$group}**: ") . "$text{$id} | $tests |";
        $last = $group;
    }
    push @rows, '', 'These are about something else:', '', '| About | Files |', '|---|---|';
    for my $subject (@subjects) {
        my @about = grep { grep { $_ eq $subject } @{ $files->{$_}{subjects} } } @names;
        push @rows, "| $subject{$subject} | " . join(', ', map { shown($_) } @about) . ' |';
    }
    return join "\n", @rows, '';
}

my ($begin, $end) = ("<!-- perl t/lib/fault-table.pl writes what follows -->\n\n", "\n<!-- up to here -->\n");

# Splits a text into the part before the tables, the tables, and the part after them.
sub parts {
    my @parts = $_[0] =~ /\A(.*\Q$begin\E)(.*?)(\Q$end\E.*)\z/s or die "no place for the tables\n";
    return @parts;
}

sub table_in { return (parts($_[0]))[1] }

# The text with these tables instead of its own.
sub with_table {
    my ($text, $tables) = @_;
    my ($before, undef, $behind) = parts($text);
    return $before . $tables . $behind;
}

1;
