
# Logical replication, as docs/replication.md has it: what is applied on a subscriber is counted
# there, TRUNCATE, partitions, streamed and prepared transactions included; a publication FOR ALL
# TABLES brings neither counters nor machines; a queue moves to the subscriber and works on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/replication.md');
my %node;
for my $name (qw(publisher subscriber))
{
	$node{$name} = PostgreSQL::Test::Cluster->new($name);
	$node{$name}->init(allows_streaming => 'logical');
	$node{$name}->append_conf('postgresql.conf', qq{
fsync = off
max_prepared_transactions = 10
logical_decoding_work_mem = 64kB
wal_retrieve_retry_interval = 100ms
max_worker_processes = 20
max_logical_replication_workers = 10
max_sync_workers_per_subscription = 6
autovacuum = off
});
	$node{$name}->start;
}
my ($pub, $sub) = @node{qw(publisher subscriber)};
my $connection = $pub->connstr . ' dbname=postgres';

# The n-th block of the page that begins like this, with the test's own connection in it.
sub documented
{
	my ($where, $like) = @_;
	my ($block) = grep { /\Q$like\E/ } $docs =~ /^```sql\n-- \Q$where\E[^\n]*\n(.*?)^```$/msg;
	die "no such block: $like" unless defined $block;
	$block =~ s/host=publisher dbname=shop/$connection/;
	return $block;
}

sub run_documented
{
	my ($where, $like, $db) = @_;
	return $node{$where}->safe_psql($db // 'postgres', documented($where, $like));
}

sub caught_up
{
	my ($slot, $db) = @_;
	$sub->poll_query_until($db // 'postgres', q{SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel})
	  or die 'the tables were not copied';
	$pub->wait_for_catchup($slot);
}

# The subscriber has the publisher's rows, its counters are those of its rows, and so is a count by hand.
sub same
{
	my ($when, $table, $group) = @_;
	caught_up($table eq 'part' ? 'parts' : 'tasks');
	my $by_hand = "SELECT $group, state, count(*) FROM $table GROUP BY 1, 2 ORDER BY 1, 2";
	is($sub->safe_psql('postgres', $by_hand), $pub->safe_psql('postgres', $by_hand), "the rows of $table: $when");
	is($sub->safe_psql('postgres', qq{SELECT group_key ->> '$group', state, n FROM jobstate.counts('$table') WHERE n <> 0 ORDER BY 1, 2}),
		$pub->safe_psql('postgres', qq{SELECT $group\::text, state::text, count(*) FROM $table GROUP BY 1, 2 ORDER BY 1, 2}),
		"their counts on the subscriber: $when");
	is($sub->safe_psql('postgres', "SELECT bool_and(counted AND watched) FROM jobstate.attachments"), 't', "which are counters: $when");
	is($sub->safe_psql('postgres', "SELECT * FROM jobstate.verify()"), '', "and right: $when");
}

my ($tables) = documented('subscriber', 'CREATE EXTENSION jobstate') =~ /\A(.*?)CREATE SUBSCRIPTION/s;
my $more = q{
	CREATE TABLE part (id int, queue int, state text, at timestamptz DEFAULT now(), note text) PARTITION BY LIST (queue);
	CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
	CREATE TABLE part_2 PARTITION OF part DEFAULT;
	ALTER TABLE part_0 REPLICA IDENTITY FULL; ALTER TABLE part_1 REPLICA IDENTITY FULL; ALTER TABLE part_2 REPLICA IDENTITY FULL;
	CREATE TABLE task_note (task bigint REFERENCES task, n int GENERATED ALWAYS AS IDENTITY);
	SELECT jobstate.attach('part', 'task', 'state', '{queue}');
};
$pub->safe_psql('postgres', $tables . $more . q{
	INSERT INTO task SELECT n, 'q' || n % 3, 'queued', '2024-01-01' FROM generate_series(1, 300) n;
	INSERT INTO part SELECT n, n % 4, 'queued' FROM generate_series(1, 40) n;
	UPDATE task SET state = 'running' WHERE id <= 100;
	UPDATE task SET state = 'done' WHERE id <= 50});
$sub->safe_psql('postgres', $tables . $more);
run_documented('publisher', 'CREATE PUBLICATION tasks');
$pub->safe_psql('postgres', q{ALTER PUBLICATION tasks ADD TABLE task_note; CREATE PUBLICATION parts FOR TABLE part});
my ($subscribe) = documented('subscriber', 'CREATE EXTENSION jobstate') =~ /^(CREATE SUBSCRIPTION.*?);$/m;
$sub->safe_psql('postgres', "$subscribe WITH (streaming = on, two_phase = on)");
$sub->safe_psql('postgres', "CREATE SUBSCRIPTION parts CONNECTION '$connection' PUBLICATION parts");
same('copied', 'task', 'queue');
same('copied', 'part', 'queue');

$pub->safe_psql('postgres', q{
	SELECT jobstate.take('task', 'queued', 'running', '{"queue": "q1"}', n => 30);
	SELECT jobstate.transition('task', ARRAY(SELECT id FROM task WHERE state = 'running' AND id % 2 = 0), 'done', 'running');
	SELECT jobstate.prune('task', '1 year', 'at', 20);
	BEGIN; UPDATE task SET queue = 'q9' WHERE id % 7 = 0; SAVEPOINT s; DELETE FROM task WHERE id % 5 = 0; ROLLBACK TO s;
	INSERT INTO task VALUES (1000, NULL, 'queued'); COMMIT;
	UPDATE part SET queue = queue + 1 WHERE id % 3 = 0; UPDATE part SET state = 'running', queue = 0 WHERE id % 5 = 0;
	DELETE FROM part WHERE id % 11 = 0; SELECT jobstate.fold()});
same('changed', 'task', 'queue');
same('moved between partitions', 'part', 'queue');
my $totals = q{SELECT * FROM jobstate.totals('task') ORDER BY group_key::text, state};
is($sub->safe_psql('postgres', $totals), $pub->safe_psql('postgres', $totals), 'totals with what was pruned are those of the publisher');
like($pub->safe_psql('postgres', $totals), qr/\|[1-9]\d*\n/, 'and there was something');

# larger than the memory for decoding, so streamed; with savepoints; prepared
$pub->safe_psql('postgres', q{BEGIN; INSERT INTO task SELECT n, 'big', 'queued' FROM generate_series(2001, 6000) n;
	SAVEPOINT s; UPDATE task SET state = 'running' WHERE queue = 'big'; ROLLBACK TO s; UPDATE task SET state = 'running' WHERE id > 5000; COMMIT});
same('streamed', 'task', 'queue');
$pub->poll_query_until('postgres', q{SELECT sum(stream_txns) > 0 FROM pg_stat_replication_slots}) or die 'nothing was streamed';
$pub->safe_psql('postgres', q{BEGIN; UPDATE task SET state = 'done' WHERE queue = 'big' AND state = 'running'; PREPARE TRANSACTION 'one';
	BEGIN; DELETE FROM task WHERE queue = 'q0'; PREPARE TRANSACTION 'two'});
$sub->poll_query_until('postgres', 'SELECT count(*) = 2 FROM pg_prepared_xacts') or die;
is($sub->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('task', '{"queue": "big"}') WHERE state = 'done'}), '0', 'prepared, and not counted');
$pub->safe_psql('postgres', $_) for q{COMMIT PREPARED 'one'}, q{ROLLBACK PREPARED 'two'};
same('prepared', 'task', 'queue');

# TRUNCATE, alone and of partitions, with what stands in the log
$pub->safe_psql('postgres', q{TRUNCATE part_1; TRUNCATE task RESTART IDENTITY CASCADE; INSERT INTO task SELECT n, 'new', 'queued' FROM generate_series(1, 9) n});
same('truncated', $_, 'queue') for qw(task part);
$pub->safe_psql('postgres', q{BEGIN; INSERT INTO part VALUES (77, 1, 'queued'); TRUNCATE part; INSERT INTO part VALUES (78, 2, 'queued'); COMMIT});
same('truncated in a transaction', 'part', 'queue');

# by the root, into other partitions
$sub->safe_psql('postgres', q{ALTER SUBSCRIPTION parts DISABLE; DROP TABLE part;
	CREATE TABLE part (id int, queue int, state text, at timestamptz DEFAULT now(), note text) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (50); CREATE TABLE part_b PARTITION OF part DEFAULT;
	ALTER TABLE part_a REPLICA IDENTITY FULL; ALTER TABLE part_b REPLICA IDENTITY FULL;
	SELECT jobstate.attach('part', 'task', 'state', '{queue}')});
$pub->safe_psql('postgres', q{ALTER TABLE part REPLICA IDENTITY FULL; ALTER PUBLICATION parts SET (publish_via_partition_root = true)});
$sub->safe_psql('postgres', 'ALTER SUBSCRIPTION parts ENABLE');
$sub->safe_psql('postgres', 'ALTER SUBSCRIPTION parts REFRESH PUBLICATION');
$sub->poll_query_until('postgres', 'SELECT count(*) = 1 FROM part') or die;
$pub->safe_psql('postgres', q{INSERT INTO part SELECT n, n % 3, 'queued' FROM generate_series(1, 30) n; UPDATE part SET id = id + 40 WHERE queue = 1;
	UPDATE part SET state = 'running', queue = 2 WHERE id < 10});
same('by the root', 'part', 'queue');

# a state that the subscriber does not know stops the apply worker until it is defined there
$pub->safe_psql('postgres', q{SELECT jobstate.define_machine('task', '{"queued": 1, "running": 2, "done": 3, "held": 4}',
	'{queued -> running, running -> done, running -> queued, queued -> held}', terminal => '{done}');
	UPDATE task SET state = 'held' WHERE id = 1});
$sub->poll_query_until('postgres', q{SELECT bool_or(apply_error_count > 0) FROM pg_stat_subscription_stats}) or die;
like(slurp_file($sub->logfile), qr/ERROR:  unknown state in column "state" of relation "task"/, 'the apply worker says which state it does not know');
$sub->safe_psql('postgres', q{SELECT jobstate.define_machine('task', '{"queued": 1, "running": 2, "done": 3, "held": 4}',
	'{queued -> running, running -> done, running -> queued}', terminal => '{done}')});
same('once the state is defined, without the edge', 'task', 'queue');
my (undef, undef, $refused) = $sub->psql('postgres', q{UPDATE task SET state = 'held' WHERE id = 2});
like($refused, qr/illegal state transition/, 'sessions of the subscriber are guarded');

# triggers that do not see what is applied
my $found = run_documented('subscriber', 'ENABLE TRIGGER jobstate_watch');
like($found, qr/task\|jobstate_watch of public.task is not ENABLE ALWAYS: rows that the subscription brings/, 'health() warns');
same('mended as health() says', 'task', 'queue');
run_documented('subscriber', 'DISABLE TRIGGER jobstate_watch');
$pub->safe_psql('postgres', q{INSERT INTO task SELECT n, 'unseen', 'queued' FROM generate_series(100, 120) n});
caught_up('tasks');
run_documented('subscriber', 'ENABLE ALWAYS TRIGGER jobstate_watch');
is($sub->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('task')}), '30', 'recounted after the triggers were off');
is($sub->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'and right');
$sub->safe_psql('postgres', "DROP SUBSCRIPTION $_") for qw(tasks parts);

# -- a whole database goes over ------------------------------------------------------------
$pub->safe_psql('postgres', q{
	DROP PUBLICATION tasks, parts;
	SELECT jobstate.install('queue'), jobstate.install('store');
	SELECT count(*) FROM jobstate.enqueue_many('mail', array_fill('k'::text, ARRAY[60]), array_fill('{}'::jsonb, ARRAY[60]));
	SELECT jobstate.store_create('call', '{"status": "queued"}')});
run_documented('publisher', 'FOR ALL TABLES');
is($pub->safe_psql('postgres', q{SELECT count(*) FROM pg_publication_tables}), $pub->safe_psql('postgres', q{SELECT count(*) FROM pg_class
	WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'jobstate'::regnamespace)}), 'every table is published');

$sub->safe_psql('postgres', 'CREATE DATABASE new');
my $file = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
my ($dumps) = $docs =~ /^```sh\n(pg_dump .*?)^```$/ms;
$dumps =~ s/\\\n//g;
for my $dump (split /\n/, $dumps)
{
	my ($arguments) = $dump =~ /^pg_dump (.*) shop \| psql -d new$/ or die $dump;
	command_ok([ 'pg_dump', split(/ +/, $arguments), '-f', $file, '-d', $connection ], 'dumped');
	command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-f', $file, '-d', $sub->connstr('new') ], 'and restored');
}
run_documented('subscriber', 'CREATE SUBSCRIPTION everything', 'new');
caught_up('everything', 'new');
$sub->safe_psql('new', 'CALL jobstate.maintain()');

# every verb of the queue, its maintenance and a redefinition under such a publication
my ($job, $token) = split /\|/, $pub->safe_psql('postgres', q{
	SELECT count(*) FROM jobstate.claim('mail', 'w', 20) \gset
	SELECT id, token FROM jobstate.claim('mail', 'old worker')});
$pub->safe_psql('postgres', qq{
	SELECT jobstate.complete(id, token) FROM jobstate.job WHERE state_id = 2 AND id <> $job AND id % 3 = 0;
	SELECT jobstate.fail(id, token, 'no', retry_after => '1 hour') FROM jobstate.job WHERE state_id = 2 AND id <> $job AND id % 3 = 1;
	SELECT jobstate.cancel((SELECT min(id) FROM jobstate.job WHERE state_id = 1));
	SELECT jobstate.enqueue('mail', 'late', run_at => now() - interval '1 s');
	SELECT jobstate.define_machine('other', '{"a": 1}', '{}');
	TRUNCATE task CASCADE; INSERT INTO task VALUES (1, 'q', 'queued'); SELECT jobstate.rebuild('part');
	SELECT jobstate.store_update('call', '{"status": "preprocessing"}');
	CALL jobstate.maintain(); SELECT jobstate.fold()});
is($pub->safe_psql('postgres', q{SELECT count(*) FROM jobstate.job WHERE state_id = 2}) > 1, 1, 'some jobs run');
caught_up('everything', 'new');
my $states = q{SELECT state, n FROM jobstate.queue_counts('mail') ORDER BY 1};
is($sub->safe_psql('new', $states), $pub->safe_psql('postgres', $states), 'the queue is counted on the subscriber');
is($sub->safe_psql('new', 'SELECT * FROM jobstate.verify()'), '', 'all counters are right there');
is($sub->safe_psql('new', q{SELECT count(*) FROM jobstate.machine WHERE name = 'other'}), '0', 'machines are each database\'s own');
is($sub->safe_psql('new', q{SELECT bool_and(counted) FROM jobstate.attachments}), 't', 'and so are epochs');
unlike(slurp_file($sub->logfile), qr/column "epoch"|relation "(machine|attachment|state)_pkey"/, 'nothing of the catalogue stood in the way');
my $slot = 'look';
$pub->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('$slot', 'test_decoding');
	INSERT INTO task SELECT n, 'g' || n, 'queued' FROM generate_series(100, 400) n; SELECT jobstate.fold()");
is($pub->safe_psql('postgres', "SELECT count(*) FROM pg_logical_slot_get_changes('$slot', NULL, NULL) WHERE data ~ 'jobstate\.(segment|base)'"),
	'0', 'and no row of the log is decoded');
$pub->safe_psql('postgres', "SELECT pg_drop_replication_slot('$slot')");

# settings that are replicated are noticed by sessions that have read them
my $pooled = $sub->background_psql('new', on_error_stop => 0);
my $limit = q{SELECT count(*) FROM jobstate.claim('tiny', 'w', 5)};
$pub->safe_psql('postgres', q{SELECT jobstate.queue_define('tiny', '{"max_running": 5}')});
caught_up('everything', 'new');
$pooled->query_safe($limit);
$pub->safe_psql('postgres', q{SELECT jobstate.queue_define('tiny', '{"max_running": 2}')});
caught_up('everything', 'new');

# the switch
my $sequences = $pub->safe_psql('postgres', documented('publisher', 'setval'));
like($sequences, qr/jobstate\.job_number/, 'the ring\'s sequence is among those to carry over');
$sub->safe_psql('new', "$sequences" =~ s/$/;/mgr);
$sub->safe_psql('new', documented('subscriber', 'DROP SUBSCRIPTION everything') =~ /(DROP.*?;\nCALL.*?;)/s ? $1 : die);
$pub->stop;
is($sub->safe_psql('new', q{SELECT count(*) FROM jobstate.health(deep => true) WHERE status = 'warning'}), '0', 'health() has no warning after the switch');
is($sub->safe_psql('new', "SELECT jobstate.complete($job, $token)"), 't', 'a worker completes the job that it had');
$sub->safe_psql('new', q{SELECT count(*) FROM jobstate.enqueue_many('tiny', array_fill('k'::text, ARRAY[9]), array_fill('{}'::jsonb, ARRAY[9]))});
is($pooled->query_safe($limit), '2', 'the limit that was replicated holds');
$pooled->quit;
$sub->safe_psql('new', q{UPDATE jobstate.job SET lease_until = now() - interval '1 s' WHERE state_id = 2; SELECT jobstate.rescue();
	UPDATE jobstate.queue SET max_running = NULL; UPDATE jobstate.job SET run_at = now() WHERE state_id = 3; SELECT jobstate.promote()});
my $left = $sub->safe_psql('new', 'SELECT count(*) FROM jobstate.job WHERE state_id = 1');
my $claimed = $sub->safe_psql('new', q{SELECT count(*) FROM jobstate.claim('mail', 'w', 1000) UNION ALL SELECT count(*) FROM jobstate.claim('tiny', 'w', 1000)});
is(eval join('+', split /\n/, $claimed), $left, 'every available job is found by a claim') or diag $claimed;
cmp_ok($left, '>', 20, 'and there were some');
is($sub->safe_psql('new', q{SELECT * FROM jobstate.verify()}), '', 'and the counts are right');

$sub->stop;
# Some servers (15.18, 17, 18) that apply changes by the root of partitions leave these open where they have a trigger,
# whosever it is.
is(join("\n", grep { /WARNING: .*not closed/ && !/relation "part_[ab]"/ } split /\n/, slurp_file($sub->logfile)), '',
	'the apply worker left nothing open');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 11|40P01/, $_->name . ' did not crash') for $pub, $sub;
done_testing();
