# A database with something of everything: attached tables, derived parents, a rollup, and every
# family with work that is open. For tests of what carries a database on: update, dump, upgrade.
package Families;
use strict;
use warnings;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(fill facts work_goes_on prepare_work end_prepared);

my $kernel = q{
	SELECT jobstate.define_machine('phase', '{"ready": 1, "busy": 2, "done": 3, "lost": -4}',
		'{ready -> busy, busy -> done: work, busy -> lost, busy -> ready, done -> ready}', '{ready}', '{done,lost}');
	SELECT jobstate.define_machine('whole', '{"ready": 1, "busy": 2, "done": 3, "lost": -4}',
		(SELECT array_agg(a || ' -> ' || b) FROM unnest('{ready,busy,done,lost}'::text[]) a, unnest('{ready,busy,done,lost}'::text[]) b
		  WHERE a <> b));
	SELECT jobstate.define_rules('whole', '{empty -> ready, any lost -> lost, all done -> done, all ready -> ready, always -> busy}');
	CREATE SCHEMA app;
	CREATE TYPE app."odd name" AS ENUM ('ready', 'busy', 'done', 'lost');
	CREATE TABLE app.batch (id int PRIMARY KEY, state text NOT NULL DEFAULT 'ready');
	CREATE TABLE app.item (id int PRIMARY KEY, batch int REFERENCES app.batch ON DELETE CASCADE, name text, due date NOT NULL,
		state smallint NOT NULL DEFAULT 1);
	CREATE INDEX ON app.item (batch);
	SELECT jobstate.attach('app.batch', 'whole', 'state');
	SELECT jobstate.attach('app.item', 'phase', 'state', '{name,due}');
	INSERT INTO app.batch SELECT n FROM generate_series(1, 10) n;
	SELECT jobstate.derive('app.batch', 'app.item', 'batch', 'whole');
	INSERT INTO app.item SELECT n, 1 + n % 10, (ARRAY['Ähre', 'zoo', 'Zoo', 'äh-re', 'z oo', ''])[1 + n % 7], date '2024-02-29' - n % 2
	  FROM generate_series(1, 300) n;
	UPDATE app.item SET state = 2 WHERE id <= 150;
	UPDATE app.item SET state = 3 WHERE id <= 90 OR batch = 4 AND state = 2 AND id > 103;
	UPDATE app.item SET state = -4 WHERE id BETWEEN 100 AND 103;
	SELECT jobstate.prune('app.item', '1 year', 'due', 40);

	CREATE TABLE app."Mixed Case" ("the id" int, region text, "State" app."odd name" NOT NULL, PRIMARY KEY ("the id", region))
		PARTITION BY LIST (region);
	CREATE TABLE app.region_1 PARTITION OF app."Mixed Case" FOR VALUES IN ('Ähre', 'zoo');
	CREATE TABLE app.region_2 PARTITION OF app."Mixed Case" DEFAULT;
	INSERT INTO app."Mixed Case" SELECT n, (ARRAY['Ähre', 'zoo', 'Zoo'])[1 + n % 3], 'ready' FROM generate_series(1, 60) n;
	SELECT jobstate.attach('app."Mixed Case"', 'phase', 'State', '{region}');
	UPDATE app."Mixed Case" SET "State" = 'busy' WHERE "the id" <= 20;
};

my $families = q{
	SELECT jobstate.install(f) FROM jobstate.family_names() f;

	SELECT jobstate.upload_create(n % 3, 'c' || n % 2, 'coverage', 's3://' || n) FROM generate_series(1, 24) n;
	SELECT jobstate.upload_take(0, 'c0', n => 2, lease => '1 day');
	SELECT jobstate.upload_finish(upload_id, true, token) FROM jobstate.upload_take(1, 'c1', n => 2) u;

	SELECT jobstate.queue_define('mail', '{"max_running": 50, "max_attempts": 2}');
	SELECT count(*) FROM jobstate.enqueue_many('mail', array_fill('welcome'::text, '{40}'), array_fill('{"to": "ann"}'::jsonb, '{40}'));
	SELECT jobstate.enqueue('mail', 'later', '{}', run_at => now() + interval '1 day');
	SELECT jobstate.enqueue('mail', 'once', '{}', unique_key => 'Ähre');
	SELECT jobstate.claim('mail', 'worker 1', 12, '1 day');
	SELECT jobstate.complete(array_agg(id), array_agg(token)) FROM (SELECT * FROM jobstate.job WHERE state_id = 2 ORDER BY id LIMIT 4) j;
	SELECT jobstate.fail(id, token, 'no such address', retryable => false) FROM (SELECT * FROM jobstate.job WHERE state_id = 2 ORDER BY id LIMIT 2) j;
	SELECT jobstate.snooze(id, token, '1 hour') FROM (SELECT * FROM jobstate.job WHERE state_id = 2 ORDER BY id LIMIT 1) j;

	SELECT jobstate.store_create('r' || n, '{"status": "queued", "progress": {"percent": 1}}') FROM generate_series(1, 6) n;
	SELECT jobstate.store_begin('r1'), jobstate.store_begin('r2');
	SELECT jobstate.store_put('r2', 'progress', 'percent', '30', token) FROM jobstate.store WHERE id = 'r2';

	SELECT jobstate.ledger_define('facts'), jobstate.ledger_define('old');
	SELECT jobstate.ledger_mark('facts', 'item ' || n) FROM generate_series(1, 5) n;
	SELECT jobstate.ledger_begin_run('facts', 'worker 1', '1 day');
	SELECT jobstate.ledger_take('facts', '{a,b,c}', lease => '1 day', run => token) FROM jobstate.ledger_run;
	SELECT jobstate.ledger_fail('facts', 'a', 'line 7', token) FROM jobstate.ledger WHERE item = 'a';

	SELECT jobstate.schedule_define('extract', 'every 15m');
	SELECT jobstate.schedule_define('report', 'daily 06:00', 'mail', 'report');
	SELECT jobstate.schedule_due('worker 1', lease => '1 day');

	SELECT jobstate.apply_create('orders' || n, 'mysql', 'production', '[{"deployment": "us"}, {"deployment": "eu", "on_failure": "pause"}]')
	  FROM generate_series(1, 3) n;
	SELECT jobstate.operation_claim('driver 1', '1 day');
	SELECT jobstate.operation_claim('driver 2', '1 day');
	SELECT jobstate.operation_fail(operation_id, token, 'disk full') FROM jobstate.operation_claim('driver 3', '1 day');
};

# Half of what is written is folded, half is not.
sub fill
{
	my ($node, $db, %how) = @_;
	$node->safe_psql($db, $_, %how) for $kernel, 'SELECT jobstate.fold()', $families;
}

my $work = q{
	UPDATE app.item SET state = 2 WHERE id BETWEEN 200 AND 203;
	INSERT INTO app.item VALUES (400, 3, 'zoo', '2024-02-29');
	SELECT jobstate.enqueue('mail', 'prepared', '{}');
	SELECT jobstate.store_put('r3', 'progress', 'percent', '50');
	SELECT jobstate.ledger_mark('facts', 'prepared');
};

# Leaves a transaction prepared that has written a bit of everything.
sub prepare_work
{
	my ($node, $db, %how) = @_;
	$node->safe_psql($db, "BEGIN; $work PREPARE TRANSACTION 'work'", %how);
}

sub end_prepared
{
	my ($node, $db, $how, %how) = @_;
	$node->safe_psql($db, "$how PREPARED 'work'", %how);
}

# Everything that anybody can ask, and the contents of every table but the counter log, as text.
sub facts
{
	my ($node, $db, %how) = @_;
	return $node->safe_psql($db, q{
		SET client_encoding = 'UTF8';
		SELECT a.target, t.* FROM jobstate.attachments a, jobstate.totals(a.target) t
		 WHERE t.total <> 0 ORDER BY a.target::text COLLATE "C", t.group_key::text COLLATE "C", t.state COLLATE "C";
		SELECT target, machine, state_column, group_by, watched FROM jobstate.attachments ORDER BY target::text COLLATE "C";
		SELECT * FROM jobstate.machines ORDER BY name COLLATE "C";
		SELECT * FROM jobstate.transitions ORDER BY machine COLLATE "C", from_state COLLATE "C", to_state COLLATE "C";
		SELECT * FROM jobstate.rules ORDER BY rule_set COLLATE "C", ord;
		SELECT * FROM jobstate.derivations ORDER BY parent::text COLLATE "C", child::text COLLATE "C";
		SELECT target, group_key, state_id, day, n FROM jobstate.rollup ORDER BY target::text COLLATE "C", group_key::text COLLATE "C", state_id, day;
		SELECT format('SELECT %L, count(*), md5(convert_to(string_agg(t::text, %L ORDER BY t::text COLLATE "C"), %L)) FROM %s t',
		              c.oid::regclass, E'\n', 'UTF8', c.oid::regclass)
		  FROM pg_class c WHERE c.relnamespace IN ('jobstate'::regnamespace, 'app'::regnamespace) AND c.relkind IN ('r', 'p')
		   AND c.relname !~ '^(segment|base|attachment|machine|state|transition|rule)'
		 ORDER BY c.oid::regclass::text COLLATE "C" \gexec
		SELECT format('SELECT %L, last_value, is_called FROM %s', c.oid::regclass, c.oid::regclass)
		  FROM pg_class c WHERE c.relnamespace = 'jobstate'::regnamespace AND c.relkind = 'S'
		 ORDER BY c.oid::regclass::text COLLATE "C" \gexec
	}, %how);
}

# Whoever held something goes on with it, others take what is free, and the guard is on.
sub work_goes_on
{
	my ($node, $db, $when, %how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ask = sub { $node->safe_psql($db, $_[0], %how) };

	is($ask->('SELECT * FROM jobstate.verify()'), '', "$when: nothing has drifted");
	my ($ret, $out, $err) = $node->psql($db, 'UPDATE app.item SET state = 3 WHERE id = 255', %how);
	like($err, qr/illegal state transition/, "$when: the guard is on");
	is($ask->(q{UPDATE app.item SET state = 2 WHERE id = 255; SELECT state FROM app.batch WHERE id = 6}), 'busy', "$when: parents are derived");
	is($ask->(q{UPDATE app.item SET state = 2 WHERE batch = 6 AND state = 1; UPDATE app.item SET state = 3 WHERE batch = 6 AND state = 2;
		SELECT state FROM app.batch WHERE id = 6}), 'done', "$when: and derived again");

	is($ask->(q{SELECT count(*) FROM (SELECT jobstate.upload_finish(id, true, token) FROM jobstate.upload WHERE lease_until > now()) u}), '2',
		"$when: uploads are finished by whoever has their lease");
	is($ask->(q{SELECT count(*) FROM jobstate.upload_take(1, 'c0', n => 3)}), '3', "$when: uploads are taken");

	is($ask->(q{SELECT count(*) FROM jobstate.complete(ARRAY(SELECT id FROM jobstate.job WHERE state_id = 2 ORDER BY id LIMIT 3),
		ARRAY(SELECT token FROM jobstate.job WHERE state_id = 2 ORDER BY id LIMIT 3))}), '3', "$when: jobs are completed by whoever has their token");
	is($ask->(q{SELECT count(*) >= 29, count(*) = count(DISTINCT id) FROM jobstate.claim('mail', 'worker 2', 100, '1 day')}), 't|t', "$when: each job is claimed once");
	is($ask->(q{SELECT n FROM jobstate.counts('jobstate.job', '{"queue": "mail", "priority": 2, "limit_key": null}') WHERE state = 'available'}), '0', "$when: and all of them");
	is($ask->(q{SELECT duplicate FROM jobstate.enqueue('mail', 'once', '{}', unique_key => 'Ähre')}), 't', "$when: a unique key keeps others out");
	is($ask->(q{WITH new AS (SELECT id FROM jobstate.enqueue('mail', 'new', '{}')) SELECT count(*) FROM new}), '1', "$when: jobs are enqueued");
	is($ask->(q{SELECT kind FROM jobstate.claim('mail', 'worker 2', 100)}), 'new', "$when: and claimed");
	is($ask->(q{SELECT count(*) FROM jobstate.dlq_retry(ARRAY(SELECT id FROM jobstate.dead_letter))}), '2', "$when: dead letters are retried");

	is($ask->(q{SELECT jobstate.store_complete('r1', '{}', token => token) ->> 'status' FROM jobstate.store WHERE id = 'r1'}), 'completed', "$when: the store's attempt ends");
	is($ask->(q{SELECT attempt FROM jobstate.store_begin('r4')}), '1', "$when: another begins");
	is($ask->(q{SELECT jobstate.ledger_mark('facts', 'b', token => token) IS NOT NULL FROM jobstate.ledger WHERE item = 'b'}), 't', "$when: a claimed item is processed");
	is($ask->(q{SELECT jobstate.ledger_end_run('facts', token) IS NOT NULL FROM jobstate.ledger_run WHERE state = 'running'}), 't', "$when: the run ends");
	is($ask->(q{SELECT count(jobstate.schedule_finish(name, token)) FROM jobstate.schedule WHERE token IS NOT NULL}), '1', "$when: the schedule is through");
	is($ask->(q{SELECT count(*) FROM (SELECT jobstate.operation_complete(id, token) FROM jobstate.operation WHERE lease_until > now()) o}), '2',
		"$when: drivers complete their operations");
	is($ask->(q{SELECT count(*) FROM jobstate.operation_claim('driver 1')}), '1', "$when: operations are claimed");

	$ask->('CALL jobstate.maintain()') for 1 .. 2;
	is($ask->('SELECT count(*) FROM jobstate.attachments WHERE NOT (counted AND watched)'), '0', "$when: all tables are counted and watched");
	is($ask->('SELECT * FROM jobstate.verify()'), '', "$when: the counters stay right");
	is($ask->(q{SELECT check_name, object, detail FROM jobstate.health(deep => true) WHERE status = 'warning' AND check_name !~ 'lagging|maintenance'}), '',
		"$when: nothing wants a hand");
}

1;
