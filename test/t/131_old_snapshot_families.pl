
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
	SELECT jobstate.install('ledger'), jobstate.install('apply');
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

	-- applies of other databases, driven to their end
	CREATE PROCEDURE applies(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			PERFORM jobstate.apply_create('db ' || i, 'mysql', 'production', '[{"deployment": "eu"}]');
			COMMIT;
			PERFORM jobstate.operation_complete(c.operation_id, c.token) FROM jobstate.operation_claim('driver') c;
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

# What each looks at, after so much work; the second look of a session, when all is in its caches.  The processor's own
# row, which every run writes, leaves versions behind like any other.
my %may = ('the end of a run' => 60, 'the search for who has a deployment' => 25);
my %verb = (
	'the end of a run' => q{SELECT jobstate.ledger_end_run('facts', token) FROM jobstate.ledger_begin_run('facts')},
	'the search for who has a deployment' => q{SELECT jobstate.apply_holder('another', 'mysql', 'production', '{eu}')});

sub looks
{
	my %pages;
	sleep 2;
	for my $what (keys %verb)
	{
		my $look = "SELECT pages(\$\$$verb{$what}\$\$)";
		(undef, $pages{$what}) = split /\n/, $node->safe_psql('postgres', "$look; $look");
	}
	return %pages;
}

$node->safe_psql('postgres', 'CALL runs(20)');
$node->safe_psql('postgres', 'CALL applies(20)');
$node->safe_psql('postgres', 'ANALYZE');
my %before = looks();
$node->safe_psql('postgres', 'CALL runs(200)');
$node->safe_psql('postgres', 'CALL applies(200)');
my %after = looks();
for my $what (sort keys %verb)
{
	note("$what: $before{$what} pages, then $after{$what}");
	cmp_ok($after{$what} - $before{$what}, '<', $may{$what}, "$what does not look at what is dead");
}

$holder->quit;
done_testing();
