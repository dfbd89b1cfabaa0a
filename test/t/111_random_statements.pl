# Random statements over attached tables by several sessions: after each batch every count is that
# of the rows, parents are what their children say, and no move passed that the machine has not.
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

# What the sessions try is the same in every run; for others, JOBSTATE_STATEMENTS has what test/fuzz/statements.py takes.
my ($out, $err);
local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
IPC::Run::run(
	[
		$python, "$FindBin::Bin/../fuzz/statements.py",
		split(' ', $ENV{JOBSTATE_STATEMENTS} || '--seed 1 --rounds 14'), '--dsn', $node->connstr('postgres')
	],
	'>', \$out, '2>', \$err);
is($?, 0, 'rounds of statements');
note($out);
diag($out . $err) if $?;

# nothing crashed on the way
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'the server lives');

$node->stop;
done_testing();
