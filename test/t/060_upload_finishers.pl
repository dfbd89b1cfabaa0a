
# Workers that finish, merge and decide at random, at every isolation level: each
# commit is postprocessed exactly once, nothing stays behind, nothing deadlocks, and
# the counts are those of the rows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "deadlock_timeout = 100ms\nlog_lock_waits = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('uploads');
	CREATE TABLE told (sha text, answer text, done boolean NOT NULL DEFAULT false);

	-- one step of a worker: carry out what somebody was told, or finish an upload of
	-- the one commit that all are at; one in ten dies at the end and is started again
	CREATE FUNCTION step(batch integer) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		todo record;
		task record;
	BEGIN
		SELECT t.ctid, t.sha INTO todo FROM told t
		 WHERE t.answer = 'merge' AND NOT t.done LIMIT 1 FOR UPDATE SKIP LOCKED;
		IF FOUND THEN
			UPDATE told SET done = true WHERE ctid = todo.ctid;
			PERFORM jobstate.upload_mark_merged(array_agg(b.upload_id), b.token)
			   FROM jobstate.upload_take_for_merging(1, todo.sha, batch) b GROUP BY b.token;
			INSERT INTO told SELECT todo.sha, jobstate.upload_decide(1, todo.sha);
		ELSE
			SELECT t.* INTO task
			  FROM (SELECT min(commit_sha) AS sha FROM jobstate.upload WHERE state_id = 1) c,
				   jobstate.upload_take(1, c.sha) t WHERE c.sha IS NOT NULL;
			IF FOUND THEN
				PERFORM pg_sleep(random() * 0.003);
				INSERT INTO told
				SELECT u.commit_sha, jobstate.upload_finish(u.id, random() < 0.9, task.token)
				  FROM jobstate.upload u WHERE u.id = task.upload_id;
			END IF;
		END IF;
		IF random() < 0.1 THEN
			RAISE serialization_failure;
		END IF;
	END $$;
});

# The workers' rounds are over once nothing is left to do.
sub work_off
{
	my ($isolation) = @_;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/step.sql";
	open my $file, '>', $script or die;
	print $file "SELECT step(10);\n";
	close $file;
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$isolation";
	for my $round (1 .. 20)
	{
		$node->command_ok(
			[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 40, '--max-tries', 1000, '-f', $script, $node->connstr('postgres') ],
			"$isolation, round $round");
		return if $node->safe_psql('postgres',
			q{SELECT count(*) FROM jobstate.upload WHERE state_id IN (1, 2)}) eq '0';
	}
}

for my $isolation ('read\\ committed', 'repeatable\\ read', 'serializable')
{
	$node->safe_psql('postgres', q{
		TRUNCATE told, jobstate.upload_scope, jobstate.upload, jobstate.upload_error, jobstate.upload_totals;
		SELECT count(jobstate.upload_create(1, 'commit ' || n % 24)) FROM generate_series(1, 240) n;
	});
	work_off($isolation);

	is( $node->safe_psql('postgres', q{
			SELECT postprocess, count(*) FROM (
				SELECT count(*) FILTER (WHERE answer = 'postprocess') AS postprocess FROM told GROUP BY sha) t
			GROUP BY 1}),
		'1|24', "$isolation: each commit is postprocessed once");
	is( $node->safe_psql('postgres', q{
			SELECT state_id IN (3, 6) AND (state_id = 6) = succeeded, count(*) FROM jobstate.upload GROUP BY 1}),
		't|240', "$isolation: all are merged, or failed and in error");
	is( $node->safe_psql('postgres', q{SELECT * FROM jobstate.verify()}), '', "$isolation: counts are exact");
	is( $node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}),
		'0', "$isolation: no deadlock");
}

done_testing();
