package Keepalive::Certificates;

# Makes TLS certificates for the tests.

use strict;
use warnings;

use Exporter qw(import);

use Keepalive::Setup;

our @EXPORT = qw(self_signed);

# Makes a self-signed certificate for this name, in files of that name or of another one; returns the paths of the certificate and
# of its key.
sub self_signed {
    my ($name, $file) = @_;
    my $base = work_dir() . '/' . ($file // $name);
    system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$name"
        . " -keyout $base.key -out $base.crt >/dev/null 2>&1") == 0
        or die "openssl cannot make a certificate\n";
    return ("$base.crt", "$base.key");
}

1;
