
# Clients that write to a few records at random, at every isolation level: no field is lost, no
# counter and no list misses anything, what expired is counted once, and a dump brings it all back.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "deadlock_timeout = 100ms\nautovacuum_naptime = 1s\njobstate.auto_maintain = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('store');
	-- what each client has written, in the same transaction
	CREATE TABLE wrote (id text, client int, n int NOT NULL DEFAULT 0, PRIMARY KEY (id, client));
	CREATE TABLE made (id text PRIMARY KEY);

	-- a write to one of three records: a field of the client's own, or one that is all clients'
	CREATE FUNCTION step(client int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		job text := 'r' || 1 + floor(random() * 3);
		k int;
	BEGIN
		UPDATE wrote w SET n = w.n + 1 WHERE w.id = job AND w.client = step.client RETURNING w.n INTO k;
		CASE floor(random() * 4)
			WHEN 0 THEN
				PERFORM jobstate.store_put(job, 'mine', client::text, to_jsonb(k));
			ELSE
				PERFORM jobstate.store_update(job, jsonb_build_object('c' || client, k,
					'progress', jsonb_build_object('percent_complete', floor(random() * 100))));
		END CASE;
		PERFORM jobstate.store_update(job, jsonb_build_object('last' || client, k));
		PERFORM jobstate.store_incr(job, 'n');
		PERFORM jobstate.store_append(job, 'list', to_jsonb(client));
		IF random() < 0.05 THEN
			RAISE serialization_failure;
		END IF;
	END $$;

	-- records that come, are replaced when they have expired, and go; each of them ends once
	CREATE FUNCTION come_and_go(client int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		job text := 'e' || client || '-' || floor(random() * 20);
		state text := ('{pending,queued,transcribing,completed,failed}'::text[])[1 + floor(random() * 5)];
	BEGIN
		IF jobstate.store_get(job) IS NULL THEN
			PERFORM jobstate.store_create(job, jsonb_build_object('status', state), interval '20 ms' * (0.1 + random()));
			INSERT INTO made VALUES (gen_random_uuid());
		ELSE
			BEGIN
				PERFORM jobstate.store_update(job, '{"n": 1}');
			EXCEPTION WHEN SQLSTATE 'JS002' THEN
				NULL;
			END;
		END IF;
		IF random() < 0.1 THEN
			PERFORM jobstate.store_prune(50);
		END IF;
	END $$;
});

sub run_clients
{
	my ($function, $isolation) = @_;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/$function.sql";
	open my $file, '>', $script or die;
	print $file "SELECT $function(:client_id);\n";
	close $file;
	(my $level = $isolation) =~ s/ /\\ /g;
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$level";
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', 6, '-j', 2, '-t', 60, '--max-tries=1000',
		'-f', $script, $node->connstr('postgres') ]);
	unlike($err, qr/ERROR|aborted/, "$isolation: no client fails");
	my ($done) = $out =~ /actually processed: (\d+)/;
	is($done, 6 * 60, "$isolation: all rounds");
	return $done;
}

for my $isolation ('read committed', 'repeatable read', 'serializable')
{
	$node->safe_psql('postgres', q{
		SELECT jobstate.store_create('r' || i, '{"status": "queued"}') FROM generate_series(1, 3) i;
		TRUNCATE wrote;
		INSERT INTO wrote SELECT 'r' || i, c FROM generate_series(1, 3) i, generate_series(0, 5) c});
	my $done = run_clients('step', $isolation);
	is($node->safe_psql('postgres', q{
		SELECT sum((r.record ->> 'n')::int), sum(jsonb_array_length(r.record -> 'list')) FROM jobstate.store_records r WHERE id ~ '^r'}),
		"$done|$done", "$isolation: no count and no element is lost");
	is($node->safe_psql('postgres', q{
		SELECT w.id, w.client, w.n, r.record -> ('last' || w.client) FROM wrote w JOIN jobstate.store_records r USING (id)
		 WHERE w.n <> coalesce((r.record ->> ('last' || w.client))::int, 0)
		    OR w.n <> greatest((r.record ->> ('c' || w.client))::int, (r.record -> 'mine' ->> w.client::text)::int, 0)}),
		'', "$isolation: no field is lost");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM jobstate.store s WHERE (s.fields #>> '{progress,percent_complete}')::int <> s.percent}),
		0, "$isolation: progress is the most that was told");
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "$isolation: counts are exact");

	run_clients('come_and_go', $isolation);
	$node->safe_psql('postgres', q{
		UPDATE jobstate.store SET expires_at = clock_timestamp(), check_at = clock_timestamp() WHERE id !~ '^r' AND expired_at IS NULL});
	$node->safe_psql('postgres', 'CALL jobstate.maintain()');
	is($node->safe_psql('postgres', q{SELECT sum(t.rolled_up) - (SELECT count(*) FROM made), sum(live) FROM jobstate.totals('jobstate.store') t}),
		'0|3', "$isolation: each record that expired was counted once, none is left");
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "$isolation: counts are exact");
}

# a dump brings the records back with their expiry, guarded and counted
$node->safe_psql('postgres', q{SELECT jobstate.store_begin('r1'); CREATE TABLE before AS SELECT * FROM jobstate.store_records});
my $dump = "$PostgreSQL::Test::Utils::tmp_check/store.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('other') ], 'restore');
is($node->safe_psql('other', 'SELECT count(*) FROM (TABLE before EXCEPT TABLE jobstate.store_records) d, (SELECT count(*) FROM before) b'),
	0, 'the records are those that were dumped');
$node->safe_psql('other', 'CALL jobstate.maintain()');
is($node->safe_psql('other', 'SELECT * FROM jobstate.verify()'), '', 'and counted');
is($node->safe_psql('other', q{SELECT jobstate.store_fail('r1', 'x', token => (SELECT token FROM jobstate.store WHERE id = 'r1')) ->> 'status'}),
	'failed', 'and written');
my (undef, undef, $refused) = $node->psql('other', q{UPDATE jobstate.store SET state_id = 1 WHERE id = 'r1'});
like($refused, qr/illegal state transition/, 'and guarded');

$node->stop;
done_testing();
