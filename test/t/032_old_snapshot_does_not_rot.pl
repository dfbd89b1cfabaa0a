
# A snapshot is held while tens of thousands of transactions write and folds go on: what
# they write through does not grow with the time, and nothing in it is dead.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
synchronous_commit = off
log_statement = none
autovacuum = off
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL) WITH (fillfactor = 20);
	INSERT INTO job SELECT n, n % 50, 1 FROM generate_series(1, 1000) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	CREATE VIEW hot AS
		SELECT c.oid, relname FROM pg_class c
		 WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^(segment|base)_' AND relkind = 'r';
});

my $script = "$PostgreSQL::Test::Utils::tmp_check/rot.sql";
open my $file, '>', $script or die;
print $file <<'END';
\set id random(1, 1000)
UPDATE job SET state = 3 - state WHERE id = :id;
END
close $file;

# What the log and the base take, in kB
sub size
{
	return $node->safe_psql('postgres', 'SELECT (sum(pg_total_relation_size(oid)) / 1024)::int FROM hot');
}

sub load
{
	my ($transactions) = @_;
	$node->command_ok(
		[ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', $transactions / 4, '-M', 'prepared', '-f', $script, $node->connstr('postgres') ],
		"$transactions transactions");
	# groups that live shortly
	$node->safe_psql('postgres', 'INSERT INTO job SELECT n, n, 1 FROM generate_series(10001, 14000) n; DELETE FROM job WHERE id > 10000');
}

my $reader = $node->background_psql('postgres', on_error_stop => 1);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $counts = q{SELECT state, sum(n) FROM jobstate.counts('job') GROUP BY 1 ORDER BY 1};
my $before = $reader->query_safe($counts);

my @sizes;
for (1 .. 5)
{
	load(8000);
	# the worker folds what is full by itself, as soon as the machine lets it; what it leaves is bounded
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if size() < 4096;
		usleep(100_000);
	}
	push @sizes, size();
}
note("kB after each round: @sizes");

# 40,000 transactions of one row each, and as many rows of groups that live shortly, would
# be 6 MB and more, were the log never truncated.
cmp_ok($_, '<', 4096, 'log and base stay small') for @sizes;

# A fold passes over what the worker is at, so again until the log is empty.  The base may keep 16 pages of recent
# rows, and settled ones until they are twice what was left by a rewrite, and 64 pages: 4,000 groups at most were
# there at one time, which take 80 pages.
my ($log, $base);
for (1 .. 100)
{
	$node->safe_psql('postgres', 'SELECT jobstate.fold()') for 1 .. 2;
	$node->safe_psql('postgres', 'CALL jobstate.maintain()') for 1 .. 2;
	($log, $base) = split /\|/, $node->safe_psql('postgres', q{
		SELECT sum(pages) FILTER (WHERE relname ~ '^segment_'), sum(pages) FILTER (WHERE relname ~ '^base_')
		  FROM hot, LATERAL (SELECT pg_relation_size(oid) / 8192 AS pages) p});
	last if $log == 0 && $base <= 240;
	usleep(100_000);
}
is($log, 0, 'folded, nothing is left in the log');
cmp_ok($base, '<=', 240, "and $base pages in the base");
is( $node->safe_psql('postgres', q{
		SELECT sum(n_tup_upd + n_tup_del + n_dead_tup) FROM pg_stat_user_tables
		 WHERE relid IN (SELECT oid FROM hot)}),
	'0', 'no row of the log or the base was ever updated or deleted, none is dead');

# Each TRUNCATE costs a version of a pg_class row: a few per thousand transactions.
my $class = $node->safe_psql('postgres', q{SELECT n_dead_tup FROM pg_stat_sys_tables WHERE relname = 'pg_class'});
cmp_ok($class, '<', 1000, "TRUNCATE left $class dead rows in pg_class");

is($reader->query_safe($counts), $before, 'the old snapshot still has the counts that it had');
$reader->query_safe('COMMIT');
$reader->quit;
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'and the new ones are right');

$node->stop;
done_testing();
