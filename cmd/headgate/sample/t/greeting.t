use strict;
use warnings;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Greeting;

my ($status, $body) = Greeting::answer('/');
is($status, '200 OK', 'the front page answers');
like($body, qr/^\S.*\nthis is /, 'and says something, and where it is');

($status) = Greeting::answer('/healthz');
is($status, '200 OK', 'the health check answers');

($status) = Greeting::answer('/nowhere');
is($status, '404 Not Found', 'anything else is not found');

done_testing();
