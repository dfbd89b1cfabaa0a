
# Random sessions on attached tables: after each round of them a recount agrees with
# what was counted, and nobody waited or failed because of counting.
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
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$node->start;

# A few seconds of each kind of rounds are the same in every run, as far as the
# sessions themselves go; another seed by hand: see test/oracle/main.py.
for my $kind (qw(alone apart together rebuilt))
{
	my ($out, $err);
	$node->safe_psql('postgres', "CREATE DATABASE $kind ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
	local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
	IPC::Run::run(
		[
			$python, "$FindBin::Bin/../oracle/main.py",
			'--seed', 1, '--seconds', 17, '--kind', $kind,
			'--dsn', $node->connstr($kind)
		],
		'>', \$out, '2>', \$err);
	is($?, 0, "rounds of sessions: $kind");
	note($out);
	diag($out . $err) if $?;
}

# nothing crashed on the way
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'the server lives');

$node->stop;
done_testing();
