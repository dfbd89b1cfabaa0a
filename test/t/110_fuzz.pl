# Every function of the extension is called with values that nobody should give, by four
# roles, in transactions of every kind: no internal error, no crash, no drift, no leak.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = $ENV{PYTHON} || 'python3';
plan skip_all => "no $python with psycopg 3 here"
  if system("$python -c 'import psycopg' 2>/dev/null") != 0;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 20");
$node->start;

# The calls are the same in every run; for others, JOBSTATE_FUZZ has what test/fuzz/main.py takes.
my ($out, $err);
local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
IPC::Run::run(
	[
		$python, "$FindBin::Bin/../fuzz/main.py",
		split(' ', $ENV{JOBSTATE_FUZZ} || '--seed 1 --rounds 3 --calls 180'), '--dsn', $node->connstr('postgres')
	],
	'>', \$out, '2>', \$err);
is($?, 0, 'rounds of calls');
note($out);
diag($out . $err) if $?;

# nothing crashed on the way
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'the server lives');

$node->stop;
done_testing();
