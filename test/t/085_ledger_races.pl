
# Workers that claim, process, fail, stall and mark at random, at every isolation level:
# what is done in the transaction of the mark is done exactly once per content, nobody is
# given what another holds, poison ends dead, and a periodic job is there once for each
# time that it is due.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
jobstate.auto_maintain = off
deadlock_timeout = 200ms
log_statement = none
max_pred_locks_per_transaction = 1000
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('ledger'), jobstate.install('schedule'), jobstate.install('queue');
	SELECT jobstate.ledger_define('p', '{"max_failures": 100000}'), jobstate.ledger_define('poison', '{"max_failures": 3}');
	CREATE TABLE content (item text PRIMARY KEY, version integer NOT NULL);
	CREATE TABLE result (processor text, item text, version integer, worker integer, PRIMARY KEY (processor, item, version));
	CREATE TABLE given (n bigint GENERATED ALWAYS AS IDENTITY, processor text, item text, token uuid);

	-- a step of a worker: claim one thing that is to be processed; commits with the claim
	CREATE FUNCTION claim(p text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		items text[];
		versions text[];
		got record;
	BEGIN
		SELECT array_agg(c.item ORDER BY c.item), array_agg(c.version::text ORDER BY c.item) INTO items, versions FROM content c;
		SELECT t.item, t.token, versions[t.nth] AS version INTO got
		  FROM jobstate.ledger_take(p, items, fingerprints => versions, n => 1, worker => 'w',
		           lease => CASE WHEN random() < 0.1 THEN interval '1 ms' ELSE '1 min' END) t;
		IF NOT FOUND THEN
			RETURN '';
		END IF;
		INSERT INTO given (processor, item, token) VALUES (p, got.item, got.token);
		RETURN concat_ws(' ', got.item, got.version, got.token);
	END $$;

	-- and process it: the result and the mark go together, or not at all
	CREATE FUNCTION process(p text, claimed text, worker integer) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		part CONSTANT text[] := string_to_array(claimed, ' ');
		luck CONSTANT float := random();
	BEGIN
		IF part[1] IS NULL THEN
			RETURN 'nothing';
		ELSIF p = 'poison' OR luck < 0.1 THEN
			RETURN jobstate.ledger_fail(p, part[1], 'no', part[3]::uuid);
		ELSIF luck < 0.2 THEN
			RETURN jobstate.ledger_release(p, part[1], part[3]::uuid);
		ELSIF luck < 0.25 THEN
			RETURN 'died';
		END IF;
		INSERT INTO result VALUES (p, part[1], part[2]::integer, worker);
		PERFORM jobstate.ledger_mark(p, part[1], items => 1, fingerprint => part[2], token => part[3]::uuid);
		IF luck < 0.3 THEN
			RAISE 'crash between the mark and the commit';
		END IF;
		RETURN 'processed';
	EXCEPTION WHEN SQLSTATE 'JS001' OR SQLSTATE 'JS002' OR raise_exception OR unique_violation THEN
		RETURN SQLERRM;
	END $$;
	CREATE PROCEDURE sweep(part float) LANGUAGE sql AS $$
		UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE state = 'claimed' AND random() < part;
		SELECT FROM jobstate.ledger_expire() $$;
});

my $work = "$PostgreSQL::Test::Utils::tmp_check/work.sql";
open my $file, '>', $work or die;
print $file "SELECT claim(':p') AS claimed \\gset\nSELECT process(':p', ':claimed', :client_id);\n";
close $file;

for my $isolation ('read\\ committed', 'repeatable\\ read', 'serializable')
{
	my $level = $isolation =~ tr/\\//dr;
	$node->safe_psql('postgres', q{
		TRUNCATE content, result, given;
		SELECT jobstate.ledger_forget('{p,poison}');
		INSERT INTO content SELECT 'item' || n, 1 FROM generate_series(1, 30) n});
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$isolation";
	for my $version (1 .. 2)
	{
		$node->safe_psql('postgres', "UPDATE content SET version = $version");
		for my $round (1 .. 30)
		{
			$node->command_ok(
				[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 10, '--max-tries', 1000, '-D', 'p=p', '-f', $work, $node->connstr('postgres') ],
				"$level, version $version, round $round");
			# those that died, and some that are only slow, lose their leases; failures may be tried again
			$node->safe_psql('postgres', 'CALL sweep(0.5)');
			last if $node->safe_psql('postgres', qq{SELECT count(*) FROM result WHERE version = $version}) eq '30';
		}
	}
	is($node->safe_psql('postgres', q{SELECT version, count(*), count(DISTINCT item) FROM result WHERE processor = 'p' GROUP BY 1 ORDER BY 1}),
		"1|30|30\n2|30|30", "$level: each content has its result, once");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.ledger l WHERE processor = 'p' AND state = 'processed'
			AND NOT EXISTS (SELECT FROM result r WHERE r.item = l.item AND r.version::text = l.fingerprint)}), '0',
		"$level: what is marked has its result");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT token FROM given GROUP BY item, token HAVING count(*) > 1) t}), '0',
		"$level: no claim was given twice");

	# poison: however many are at it, each item fails as often as it may, and no more
	for my $round (1 .. 20)
	{
		$node->command_ok(
			[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 15, '--max-tries', 1000, '-D', 'p=poison', '-f', $work, $node->connstr('postgres') ],
			"$level: poison, round $round");
		$node->safe_psql('postgres', 'CALL sweep(1)');
		last if $node->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('jobstate.ledger', '{"processor": "poison"}') WHERE state = 'dead'}) eq '30';
	}
	is($node->safe_psql('postgres', q{SELECT state, failures <= 3, count(*) FROM jobstate.ledger WHERE processor = 'poison' GROUP BY 1, 2}),
		'dead|t|30', "$level: all of it is dead");
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "$level: the counts are right");
	is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}), '0', "$level: no deadlock");
}

# A schedule that is due over and over, taken and enqueued by eight: each time once.
$node->safe_psql('postgres', q{
	CREATE TABLE tick (name text, due_at timestamptz, PRIMARY KEY (name, due_at));
	SELECT jobstate.schedule_define('t' || n, 'every 1h', catch_up => '100 days', last_run => now() - interval '40 h') FROM generate_series(1, 5) n;
	SELECT jobstate.schedule_define('q' || n, 'every 1h', 'q', 'tick', catch_up => '100 days', last_run => now() - interval '40 h 30 min') FROM generate_series(1, 5) n});
my $tick = "$PostgreSQL::Test::Utils::tmp_check/tick.sql";
open $file, '>', $tick or die;
print $file q{WITH d AS MATERIALIZED (SELECT * FROM jobstate.schedule_due('w', 2)), i AS (INSERT INTO tick SELECT name, due_at FROM d)
	SELECT count(jobstate.schedule_finish(name, token, random() < 0.8, 'no')) FROM d;
SELECT count(*) FROM jobstate.schedule_enqueue(2);
};
close $file;
for my $isolation ('read\\ committed', 'repeatable\\ read', 'serializable')
{
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$isolation";
	$node->command_ok(
		[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 10, '--max-tries', 1000, '-f', $tick, $node->connstr('postgres') ], "$isolation: ticks");
}
$node->command_ok([ 'pgbench', '-n', '-c', 1, '-t', 200, '-f', $tick, $node->connstr('postgres') ], 'the rest');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT due_at), bool_and(runs = 40), count(DISTINCT name) FROM tick t JOIN jobstate.schedule USING (name)}),
	'200|40|t|5', 'each time that it was due it was taken, once');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT (payload ->> 'schedule', payload ->> 'due_at')) FROM jobstate.job}), '200|200',
	'and enqueued, once');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

$node->stop;
done_testing();
