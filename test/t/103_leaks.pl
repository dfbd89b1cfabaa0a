# Statements of all kinds in one session: what it holds of memory, locks and files stays what it was, and the
# server's log tells of no reference that was left behind. `make leaks` does a million.
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
$node->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 5\nlog_min_messages = warning");
$node->start;

my ($out, $err);
local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
IPC::Run::run(
	[
		$python, "$FindBin::Bin/../leaks/main.py",
		split(' ', $ENV{JOBSTATE_LEAKS} || '--statements 20000 --warm 8'), '--dsn', $node->connstr('postgres')
	],
	'>', \$out, '2>', \$err);
is($?, 0, 'nothing has grown');
note($out);
diag($out . $err) if $?;

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'the server lives');
unlike($log, qr/WARNING:.*(?:leak|not closed|problem in|write past)/, 'nothing was left open');

$node->stop;
done_testing();
