# The models of the protocols hold in every state, and each of their broken variants fails.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no spin here' if system('spin -V >/dev/null 2>&1') != 0;

my ($out, $err);
my $held = IPC::Run::run(["$FindBin::Bin/../models/check"], '>', \$out, '2>', \$err);
ok($held, 'models and broken variants');
my @broken = $out =~ /BROKEN_\w+: fails/g;
cmp_ok(scalar @broken, '>=', 13, 'broken variants were tried');
$held ? note($out) : diag($out . $err);
done_testing();
