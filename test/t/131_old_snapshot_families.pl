
# A snapshot is held while the families work: verbs that workers wait for do not look at what is dead behind it.
# What they read is counted in pages, so the machine's speed does not matter.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nsynchronous_commit = off\nlog_statement = none\nautovacuum = off\njobstate.auto_maintain = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install(family) FROM unnest('{queue,uploads,ledger,apply}'::text[]) family;
	SELECT jobstate.ledger_define('facts');

	-- runs of ten items, whose leases have ended when the next thing is looked at
	CREATE PROCEDURE runs(n int) LANGUAGE plpgsql AS $$
	DECLARE
		run uuid;
	BEGIN
		FOR i IN 1 .. n LOOP
			SELECT token INTO run FROM jobstate.ledger_begin_run('facts');
			COMMIT;
			PERFORM jobstate.ledger_mark('facts', t.item, token => t.token)
			   FROM jobstate.ledger_take('facts', ARRAY(SELECT 'item ' || k FROM generate_series(1, 10) k),
						fingerprints => array_fill(run::text, '{10}'), rule => 'fingerprint', lease => '1 s', run => run) t;
			COMMIT;
			PERFORM jobstate.ledger_end_run('facts', run);
			COMMIT;
		END LOOP;
	END $$;

	-- applies of other databases, driven to their end and reaped
	UPDATE jobstate.apply_policy SET quiet = '0 s';
	CREATE PROCEDURE applies(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			PERFORM jobstate.apply_create('db ' || i, 'mysql', 'production', '[{"deployment": "eu"}]');
			COMMIT;
			PERFORM jobstate.operation_complete(c.operation_id, c.token) FROM jobstate.operation_claim('driver') c;
			COMMIT;
			PERFORM jobstate.apply_reap();
			COMMIT;
		END LOOP;
	END $$;

	-- one that stays open all the time
	SELECT count(*) FROM jobstate.apply_create('kept', 'mysql', 'production', '[{"deployment": "eu"}]'),
		LATERAL jobstate.operation_claim('driver of a long one', '1 h');

	-- commits with two uploads, merged and swept until nothing is left to do
	UPDATE jobstate.upload_follow_up SET delay = '0 s' WHERE kind IN ('sweep', 'watchdog');
	CREATE PROCEDURE uploads(n int) LANGUAGE plpgsql AS $$
	DECLARE
		ids bigint[];
	BEGIN
		FOR i IN 1 .. n LOOP
			ids := ARRAY[jobstate.upload_create(i, 'commit', order_number => 1), jobstate.upload_create(i, 'commit', order_number => 2)];
			COMMIT;
			PERFORM jobstate.upload_finish(t.upload_id, true, t.token) FROM jobstate.upload_take(i, 'commit', 2, '60 s') t;
			COMMIT;
			PERFORM jobstate.upload_take_for_merging(i, 'commit');
			COMMIT;
			PERFORM jobstate.upload_mark_merged(ids);
			COMMIT;
			PERFORM jobstate.upload_decide(i, 'commit');
			PERFORM jobstate.upload_postprocessed(i, 'commit');
			COMMIT;
			PERFORM jobstate.upload_rescue();
			COMMIT;
			DELETE FROM jobstate.upload WHERE repo_id = i;
			COMMIT;
			PERFORM jobstate.upload_rescue();
			COMMIT;
			DELETE FROM jobstate.upload_scope WHERE repo_id = i;
			COMMIT;
		END LOOP;
	END $$;

	-- jobs that were deferred, were promoted and ended
	SELECT jobstate.queue_define('q', '{}');
	CREATE PROCEDURE jobs(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			PERFORM jobstate.enqueue('q', 'kind', run_at => clock_timestamp() + interval '1 ms');
			COMMIT;
			PERFORM pg_sleep(0.002);
			PERFORM jobstate.promote('q');
			COMMIT;
			PERFORM jobstate.complete(ids => array_agg(c.id), tokens => array_agg(c.token)) FROM jobstate.claim('q', 'w', 1) c;
			COMMIT;
		END LOOP;
	END $$;

	-- pages that a statement looks at
	CREATE FUNCTION pages(statement text) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		plan jsonb;
	BEGIN
		EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
		RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::int + (plan #>> '{0,Plan,Shared Read Blocks}')::int;
	END $$;
});

my $holder = $node->background_psql('postgres', on_error_stop => 1);
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');

# What each may look at more, after so much work; the processor's own row, which every run writes, leaves versions behind
# like any other.
my %verb = (
	'the end of a run' => [80, q{SELECT jobstate.ledger_end_run('facts', token) FROM jobstate.ledger_begin_run('facts')}],
	'the search for who has a deployment' => [25, q{SELECT jobstate.apply_holder('another', 'mysql', 'production', '{eu}')}],
	'the search for leases that ended' => [25, q{SELECT jobstate.ledger_expire('facts')}],
	'a claim of any operation' => [25, q{SELECT count(*) FROM jobstate.operation_claim('driver')}],
	'the sweep of uploads' => [25, q{SELECT count(*) FROM jobstate.upload_rescue()}],
	'forgetting commits' => [40, q{SELECT jobstate.upload_forget(1)}],
	'promoting jobs' => [25, q{SELECT jobstate.promote('q')}]);

# The least that a session looks at, once it knows what there is.
sub looks
{
	my %pages;
	sleep 2;
	for my $what (keys %verb)
	{
		my @pages = split /\n/, $node->safe_psql('postgres', join(';', ("SELECT pages(\$\$$verb{$what}[1]\$\$)") x 5));
		$pages{$what} = (sort { $a <=> $b } @pages)[0];
		note("$what: @pages");
	}
	return %pages;
}

sub work
{
	my ($n) = @_;
	$node->safe_psql('postgres', "CALL $_($n)") for qw(runs applies uploads jobs);
	return;
}

work(20);
$node->safe_psql('postgres', 'ANALYZE');
my %before = looks();
work(300);
$node->safe_psql('postgres', 'ANALYZE');
my %after = looks();
for my $what (sort keys %verb)
{
	cmp_ok($after{$what} - $before{$what}, '<', $verb{$what}[0], "$what does not look at what is dead")
	  or diag("$before{$what} pages, then $after{$what}");
}

# What a session knows is a bound for who sees all rows by a new snapshot, and for nobody else.
my $low = q{SELECT jobstate.low_end('jobstate.ledger', 'lease_until', 'lease_until IS NOT NULL', 5) > '-infinity';};
is($node->safe_psql('postgres', qq{
	CREATE ROLE regress_tenant;
	GRANT SELECT ON jobstate.ledger TO regress_tenant;
	CREATE POLICY own ON jobstate.ledger USING (processor = 'own');
	ALTER TABLE jobstate.ledger ENABLE ROW LEVEL SECURITY;
	$low $low $low
	SET ROLE regress_tenant;
	$low $low $low
	RESET ROLE;
	BEGIN ISOLATION LEVEL REPEATABLE READ;
	$low
	COMMIT;
	$low}), join("\n", qw(f t t f f f f t)), 'no bound where row security or an own snapshot hides rows');

$holder->quit;
done_testing();
