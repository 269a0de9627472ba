package Greeting;
use strict;
use warnings;

# Change this line, commit, `git push origin main`, and watch it go.
our $words = 'Hello from Headgate';

# answer gives the status and the body for a path.
sub answer {
    my ($path) = @_;
    return ('200 OK', "ok\n") if $path eq '/healthz';
    return ('404 Not Found', "nothing here; try /\n") if $path ne '/';
    my $where = $ENV{HEADGATE_ENVIRONMENT} // 'nowhere';
    my $release = $ENV{HEADGATE_RELEASE} // '?';
    return ('200 OK', "$words\nthis is $where, release $release\n");
}

1;
