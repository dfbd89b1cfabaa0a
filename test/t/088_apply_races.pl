
# Drivers and people at random, at every isolation level: no operation is had by two, no
# deployment by two applies, every apply is what follows from its operations, everything
# comes to an end, nothing deadlocks, and the counts are those of the rows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "deadlock_timeout = 100ms\nlog_lock_waits = off\njobstate.auto_maintain = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('apply');
	-- what was claimed: a second claim of an attempt would violate the key
	CREATE TABLE claimed (operation_id bigint, attempt integer, token uuid UNIQUE, done boolean NOT NULL DEFAULT false, PRIMARY KEY (operation_id, attempt));

	-- leases that are over at once, and drivers who die; at the end neither, or a slow machine would not come to it
	CREATE TABLE luck (lease interval, dies float8);
	INSERT INTO luck VALUES ('100 ms', 0.1);

	-- a driver claims; not one too many, though others claim at the same time
	CREATE FUNCTION claims() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		c record;
	BEGIN
		SELECT * INTO c FROM jobstate.operation_claim('driver', (SELECT lease FROM luck));
		IF NOT FOUND THEN
			SELECT * INTO c FROM jobstate.operation_claim_cutover('driver', (SELECT lease FROM luck));
		END IF;
		IF NOT FOUND THEN
			RETURN;
		END IF;
		INSERT INTO claimed VALUES (c.operation_id, c.attempt, c.token);
		IF (SELECT count(*) FROM jobstate.operation o WHERE o.apply_id = c.apply_id AND o.lease_until > clock_timestamp())
		   > (SELECT max_drivers FROM jobstate.apply WHERE id = c.apply_id) THEN
			RAISE 'too many drivers';
		END IF;
	END $$;

	-- and works, if it is not too late; one in ten dies
	CREATE FUNCTION works() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		c record;
		o record;
		dice float8 := random();
	BEGIN
		SELECT * INTO c FROM claimed WHERE NOT done ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
		IF NOT FOUND THEN
			RETURN;
		END IF;
		UPDATE claimed SET done = true WHERE operation_id = c.operation_id AND attempt = c.attempt;
		SELECT * INTO o FROM jobstate.operation WHERE id = c.operation_id;
		IF dice < (SELECT dies FROM luck) THEN
			RETURN;
		ELSIF jobstate.apply_requested(o.apply_id, 'stop', 'cancel') AND o.state <> 'cutting_over' THEN
			PERFORM jobstate.operation_stop(c.operation_id, c.token);
		ELSIF o.state = 'running' AND dice < 0.3 THEN
			PERFORM jobstate.operation_progress(c.operation_id, c.token, 'waiting_for_cutover');
			PERFORM jobstate.operation_release(c.operation_id, c.token);
		ELSIF dice < 0.75 THEN
			PERFORM jobstate.operation_complete(c.operation_id, c.token);
		ELSIF dice < 0.95 THEN
			PERFORM jobstate.operation_fail(c.operation_id, c.token, 'broken', dice < 0.9);
		ELSE
			PERFORM jobstate.operation_release(c.operation_id, c.token);
		END IF;
	EXCEPTION WHEN SQLSTATE 'JS001' OR SQLSTATE 'JS003' THEN
		UPDATE claimed SET done = true WHERE operation_id = c.operation_id AND attempt = c.attempt;
	END $$;

	-- somebody creates applies or controls them
	CREATE FUNCTION people() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		one bigint := (SELECT id FROM jobstate.apply WHERE completed_at IS NULL ORDER BY random() LIMIT 1);
		dice float8 := random();
	BEGIN
		IF one IS NULL OR dice < 0.5 THEN
			PERFORM jobstate.apply_create('d' || (random() * 3)::int, 'mysql', 'race',
				(SELECT jsonb_agg(jsonb_build_object('deployment', 'r' || n,
						'on_failure', (ARRAY['halt', 'continue', 'pause'])[1 + (random() * 2)::int]) ORDER BY random())
				   FROM generate_series((random() * 2)::int, 3) n),
				cutover_policy => (ARRAY['rolling', 'barrier', 'parallel'])[1 + (random() * 2)::int], max_drivers => 2);
		ELSIF dice < 0.6 THEN
			PERFORM jobstate.apply_stop(one);
		ELSIF dice < 0.8 THEN
			PERFORM jobstate.apply_start(one);
		ELSIF dice < 0.9 THEN
			PERFORM jobstate.apply_release(one);
		ELSE
			PERFORM jobstate.apply_cancel(one);
		END IF;
	EXCEPTION WHEN lock_not_available OR SQLSTATE 'JS003' THEN
		NULL;       -- active apply exists, or it is settled by now
	END $$;
});

sub pgbench
{
	my ($what, $isolation, $transactions, %scripts) = @_;
	my @files;
	for my $script (sort keys %scripts)
	{
		my $path = "$PostgreSQL::Test::Utils::tmp_check/$script.sql";
		open my $file, '>', $path or die;
		print $file "SELECT $script();\n";
		close $file;
		push @files, '-f', "$path\@$scripts{$script}";
	}
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$isolation";
	$node->command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', $transactions, '--max-tries', 1000, @files, $node->connstr('postgres') ], $what);
}

sub is_nothing
{
	my ($what, $query) = @_;
	is($node->safe_psql('postgres', $query), '', $what);
}

# what holds whenever nobody is at work
sub holds
{
	my ($when) = @_;
	is_nothing("$when: every apply follows from its operations", q{
		SELECT a.id, a.state, array_agg(o.state) FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
		 GROUP BY a.id
		HAVING a.state <> jobstate.fold_rollout('head', array_agg(o.state ORDER BY o.created_at, o.id),
				array_agg(CASE WHEN o.variant IN ('never_started', 'orphaned', 'continue', 'pause', 'halt') THEN o.variant ELSE '' END ORDER BY o.created_at, o.id))
			OR (a.completed_at IS NOT NULL) <> (a.state IN ('completed', 'failed', 'cancelled', 'reverted'))});
	is_nothing("$when: no deployment is had by two applies", q{
		SELECT database_name, deployment, count(*) FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
		 WHERE a.completed_at IS NULL GROUP BY 1, 2 HAVING count(*) > 1});
	is_nothing("$when: every claim was one's own", q{
		SELECT o.id, o.attempt, count(c) FROM jobstate.operation o LEFT JOIN claimed c ON c.operation_id = o.id
		 GROUP BY o.id, o.attempt HAVING count(c) <> o.attempt});
	is_nothing("$when: counts are exact", 'SELECT * FROM jobstate.verify()');
	is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}), '0', "$when: no deadlock");
}

for my $isolation ('read\\ committed', 'repeatable\\ read', 'serializable')
{
	pgbench("$isolation: drivers and people", $isolation, 80, claims => 3, works => 3, people => 1);
	holds($isolation);
}
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM claimed'), '0', 'something was claimed');

# everything comes to an end: people let go of what is stopped or paused, drivers drive
$node->safe_psql('postgres', q{UPDATE luck SET lease = '1 hour', dies = 0});
for my $round (1 .. 20)
{
	$node->safe_psql('postgres', q{
		SELECT jobstate.apply_release(id), jobstate.apply_start(id) FROM jobstate.apply WHERE completed_at IS NULL});
	pgbench("round $round of the end", 'read\\ committed', 60, claims => 1, works => 1);
	last if $node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.apply WHERE completed_at IS NULL}) eq '0';
	$node->safe_psql('postgres', q{
		SELECT jobstate.apply_cancel(id) FROM jobstate.apply WHERE completed_at IS NULL}) if $round > 10;
}
is_nothing('no apply is left open', 'SELECT id, state FROM jobstate.apply WHERE completed_at IS NULL');
holds('at the end');

# C.6 scenario 14: eight drivers, one operation, hundreds of times: one gets it
$node->safe_psql('postgres', q{
	CREATE TABLE round (n integer, got integer);
	CREATE FUNCTION rush() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO claimed SELECT c.operation_id, c.attempt, c.token, true FROM jobstate.operation_claim('rush') c;
	END $$;
	SELECT count(*) FROM (SELECT jobstate.apply_create('rush ' || n, 'mysql', 'rush', '[{"deployment": "a"}]') FROM generate_series(1, 240) n) c});
pgbench('eight drivers for each operation', 'read\\ committed', 240, rush => 1);
is($node->safe_psql('postgres', q{
	SELECT count(*), sum(o.attempt), count(c) FROM jobstate.operation o JOIN jobstate.apply a ON a.id = o.apply_id LEFT JOIN claimed c ON c.operation_id = o.id
	 WHERE a.environment = 'rush'}), '240|240|240', 'each was claimed once');

# C.6 scenario 20: eight sessions, one deployment, hundreds of times: one creates
$node->safe_psql('postgres', q{
	CREATE SEQUENCE turn;
	CREATE FUNCTION create_one() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM jobstate.apply_create('turn ' || nextval('turn') / 8, 'mysql', 'turn', '[{"deployment": "b"}, {"deployment": "a"}]');
	EXCEPTION WHEN lock_not_available THEN
		NULL;       -- active apply exists
	END $$});
pgbench('eight sessions for each deployment', 'read\\ committed', 240, create_one => 1);
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT database_name) FROM jobstate.apply WHERE environment = 'turn'}),
	'241|241', 'one apply was created for each');

done_testing();
