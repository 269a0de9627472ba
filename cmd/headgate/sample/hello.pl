#!/usr/bin/perl
# hello: a very small web service. It listens on 127.0.0.1:$PORT.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Greeting;

my $port = $ENV{PORT} or die "hello: set PORT\n";
my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128, ReuseAddr => 1,
) or die "hello: cannot listen on port $port: $@\n";
$SIG{TERM} = sub { exit 0 };
$| = 1;
print "listening on 127.0.0.1:$port\n";

while (1) {
    my $client = $server->accept or next;
    my $request = <$client> // '';
    while (my $header = <$client>) { last if $header =~ /^\r?\n$/ }
    my ($path) = $request =~ m{^GET\s+(/\S*)};
    my ($status, $body) = Greeting::answer($path // '/');
    print $client "HTTP/1.1 $status\r\nContent-Type: text/plain; charset=utf-8\r\n",
        "Content-Length: ", length($body), "\r\nConnection: close\r\n\r\n", $body;
    close $client;
}
