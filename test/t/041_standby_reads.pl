
# On a hot standby, and on one behind it, all that reads can be read, while the primary writes,
# folds and empties; what writes is refused; a standby that is promoted counts on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "fsync = off\nfull_page_writes = on\nmax_prepared_transactions = 10\nautovacuum = off");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, at timestamptz NOT NULL, state smallint NOT NULL);
	INSERT INTO job SELECT n, n % 3, '2024-05-05', 1 FROM generate_series(1, 100) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	UPDATE job SET state = 2 WHERE id <= 30;
	SELECT jobstate.prune('job', '1 year', 'at', 20);
});
$primary->backup('copy');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = 0');
$standby->start;

my $questions = q{
	SELECT * FROM jobstate.totals('job') ORDER BY group_key::text, state;
	SELECT * FROM jobstate.counts('job', '{"queue": 2}') ORDER BY state;
	SELECT * FROM jobstate.counts('job', '{"queue": 99}') ORDER BY state;
	SELECT target, counted, watched FROM jobstate.attachments;
	SELECT jobstate.mermaid('phase', 'job');
	SELECT * FROM jobstate.verify();
};

sub same_answers
{
	my ($when) = @_;
	$primary->wait_for_catchup($standby);
	my $there = $primary->safe_psql('postgres', $questions);
	is($standby->safe_psql('postgres', $questions), $there, "the standby answers like the primary: $when");
	is($standby->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "and its counts are those of its rows: $when");
}

same_answers('not folded');
$primary->safe_psql('postgres', 'UPDATE job SET state = 2 WHERE id BETWEEN 40 AND 50; SELECT jobstate.fold()');
same_answers('folded');
$primary->safe_psql('postgres', 'INSERT INTO job SELECT n, 4, now(), 1 FROM generate_series(101, 120) n');
same_answers('folded and written again');
$primary->safe_psql('postgres', q{TRUNCATE job; INSERT INTO job SELECT n, n % 3, '2024-05-05', 1 FROM generate_series(1, 50) n});
same_answers('truncated');

# uncounted, the standby scans
$primary->safe_psql('postgres', q{SELECT jobstate.uncount('job')});
same_answers('uncounted');
$primary->safe_psql('postgres', 'CALL jobstate.maintain()');
same_answers('counted again');

# a snapshot on the standby that is older than a fold
$primary->safe_psql('postgres', 'SELECT jobstate.fold()');
$primary->safe_psql('postgres', 'DELETE FROM job WHERE id = 49');
$primary->wait_for_catchup($standby);
my $reader = $standby->background_psql('postgres', on_error_stop => 0);
my $sum = q{SELECT sum(n) FROM jobstate.counts('job')};
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->query_safe($sum), '49', 'a transaction on the standby');
$primary->safe_psql('postgres', 'INSERT INTO job VALUES (51, 1, now(), 1); SELECT jobstate.fold()');
$primary->wait_for_catchup($standby);
is($reader->query_safe($sum), '49', 'counts what its snapshot sees, also past a fold');
$reader->query_safe('COMMIT');
is($reader->query_safe($sum), '50', 'and then what is new');
$reader->quit;

# A reader that meets the replay of a fold does not wait long for it: the replay may in turn
# wait for the reader's snapshot, which the server does not notice. A fold locks segments first.
my $fold = $primary->background_psql('postgres');
$fold->query_safe('BEGIN; LOCK jobstate.segment_3 IN ACCESS EXCLUSIVE MODE');
$primary->safe_psql('postgres', 'INSERT INTO job VALUES (52, 1, now(), 1)');
$standby->safe_psql('postgres', 'ALTER SYSTEM SET max_standby_streaming_delay = -1; SELECT pg_reload_conf()');
$standby->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'jobstate.segment_3'::regclass AND mode = 'AccessExclusiveLock'})
  or die 'no lock was replayed';
my @meeting;
for my $question ($sum, $sum, q{SELECT bool_and(counted) FROM jobstate.attachments})
{
	my ($answer, $complaint) = ('', '');
	push @meeting, [ IPC::Run::start([ 'psql', '-XAtq', '-d', $standby->connstr('postgres') . ' application_name=meeting options=-cstatement_timeout=60s', '-c', $question ],
		'>', \$answer, '2>', \$complaint), \$answer, \$complaint ];
}
# each has its snapshot, or even its answer
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$_->[0]->pump_nb for @meeting;
	my $answered = grep { ${ $_->[1] } . ${ $_->[2] } ne '' } @meeting;
	last if $answered + $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'meeting' AND state = 'active' AND backend_xmin IS NOT NULL}) >= @meeting;
}
$primary->safe_psql('postgres', 'UPDATE job SET at = now(); VACUUM job');
$fold->query_safe('LOCK jobstate.base_recent IN ACCESS EXCLUSIVE MODE');
$primary->safe_psql('postgres', 'INSERT INTO job VALUES (53, 1, now(), 1)');
$fold->query_safe('COMMIT');
$_->[0]->finish for @meeting;
is(join(' ', map { ${ $_->[1] } =~ s/\n//r } @meeting), '51 51 t', 'who meets the replay of a fold counts the rows') or diag map { ${ $_->[2] } } @meeting;
$fold->quit;
same_answers('after it');

# everything that reads, of all families; a standby behind the standby
$standby->backup('second');
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($standby, 'second', has_streaming => 1);
$second->start;
$primary->safe_psql('postgres', q{
	SELECT jobstate.install(f) FROM jobstate.family_names() f;
	SELECT jobstate.enqueue('mail', 'k', unique_key => 'u');
	SELECT id FROM jobstate.claim('mail', 'w');

	SELECT jobstate.store_create('call', '{"status": "queued"}');
	SELECT jobstate.ledger_mark('mails', 'a');
	SELECT jobstate.schedule_define('hourly', 'every 1 hour')});
$primary->wait_for_catchup($standby);
$standby->wait_for_catchup($second, 'replay', $standby->lsn('replay'));
my $views = q{SELECT string_agg(format('SELECT %L, count(*) FROM %s', c.oid::regclass, c.oid::regclass), ' UNION ALL ' ORDER BY c.relname)
	FROM pg_class c WHERE relnamespace = 'jobstate'::regnamespace AND relkind IN ('v', 'r', 'p') AND relname !~ '^(metrics|segment|base)'};
my $every_view = $primary->safe_psql('postgres', $views);
my $all = "$every_view;" . q{
	SELECT state, n FROM jobstate.queue_counts('mail');
	SELECT jobstate.store_get('call') ->> 'status';
	SELECT check_name, object FROM jobstate.health(deep => true) WHERE status = 'warning' AND check_name <> 'snapshots';
	SELECT name, labels::text FROM jobstate.metrics WHERE name !~ 'log|fold|age|worker' ORDER BY 1, 2};
my $there = $primary->safe_psql('postgres', $all);
for my $node ($standby, $second)
{
	is($node->safe_psql('postgres', $all), $there, 'every view, health() and metrics on ' . $node->name);
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'and verify()');
}
$second->stop;

# what writes is refused there, and in read-only transactions
my $job = $primary->safe_psql('postgres', 'SELECT min(id) FROM jobstate.job');
my @writes = ('SELECT jobstate.fold()', 'CALL jobstate.maintain()', q{SELECT jobstate.rebuild('job')}, q{SELECT jobstate.recount('job')},
	q{SELECT jobstate.uncount('job')}, q{SELECT jobstate.detach('job')}, q{SELECT jobstate.attach('jobstate.queue', 'phase', 'shards')},
	q{SELECT jobstate.take('job', 'ready', 'done')}, q{SELECT jobstate.transition('job', '{1}', 'done')}, q{SELECT jobstate.prune('job', '1 day', 'at')},
	q{SELECT jobstate.define_machine('x', '{"a": 1}', '{}')}, q{SELECT jobstate.define_rules('r', '{always -> a}')}, q{SELECT jobstate.install('queue')},
	q{SELECT jobstate.enqueue('mail', 'k')}, q{SELECT jobstate.enqueue_many('mail', '{k}', '{"{}"}'::jsonb[])}, q{SELECT jobstate.claim('mail', 'w')},
	"SELECT jobstate.complete($job, 1)", "SELECT jobstate.fail($job, 1, 'e')", "SELECT jobstate.heartbeat($job, 1)", "SELECT jobstate.snooze($job, 1, '1 s')",
	"SELECT jobstate.cancel($job)", "SELECT jobstate.retry($job)", q{SELECT jobstate.promote('mail')}, 'SELECT jobstate.rescue()',
	q{SELECT jobstate.pause('mail')}, q{SELECT jobstate.queue_define('mail', '{}')},
	q{SELECT jobstate.store_begin('call')}, q{SELECT jobstate.store_update('call', '{"error": "x"}')}, q{SELECT jobstate.store_delete('call')},
	q{SELECT jobstate.ledger_mark('mails', 'b')}, q{SELECT jobstate.ledger_begin_run('mails')}, q{SELECT jobstate.schedule_due('w')},
	q{SELECT jobstate.upload_create(1, 'c', 'r', 'p')}, q{SELECT jobstate.upload_rescue()});
for my $write (@writes)
{
	my ($ret, $out, $err) = $standby->psql('postgres', $write, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:  25006: /, "refused on the standby: $write");
}
is(join("\n", grep { ($primary->psql('postgres', "SET default_transaction_read_only = on; $_", extra_params => [ '-v', 'VERBOSITY=verbose' ]))[2]
	!~ /ERROR:  (25006|55000: relation)/ } @writes), '', 'and in a read-only transaction of the primary');

# readers of the standby beside writers and folds of the primary: nobody is cancelled
sub script
{
	my ($name, $sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	append_to_file($file, "$sql\n");
	return $file;
}
$primary->safe_psql('postgres', q{INSERT INTO job SELECT n, n % 100, now(), 1 FROM generate_series(1001, 3000) n});
my ($out, $err, $read, $failed) = ('', '', '', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', 4, '-f', script('write', q{\set a random(1001, 2900)
	DELETE FROM job WHERE id BETWEEN :a AND :a + 20;
	INSERT INTO job SELECT n, n % 100, now(), 1 FROM generate_series(:a, :a + 20) n ON CONFLICT DO NOTHING;}) . '@4',
	'-f', script('fold', 'SELECT jobstate.fold();') . '@1', $primary->connstr('postgres') ], '>', \$out, '2>', \$err);
my $readers = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 4, '-f', script('read', q{SELECT 1 / (sum(n) > 1000)::int FROM jobstate.counts('job');}),
	$standby->connstr('postgres') ], '>', \$read, '2>', \$failed);
$_->finish for $load, $readers;
unlike("$err$failed", qr/ERROR|aborted/, 'readers beside the replay of folds: no error');
like($read, qr/processed: [1-9]\d+/, 'and many answers');
same_answers('after that');
$primary->safe_psql('postgres', q{TRUNCATE job; INSERT INTO job SELECT n, n % 3, '2024-05-05', 1 FROM generate_series(1, 50) n});

# promotion, with a transaction that is prepared
$primary->safe_psql('postgres', q{BEGIN; UPDATE job SET state = 2 WHERE id = 1; PREPARE TRANSACTION 'promoted'});
$primary->wait_for_catchup($standby);
$primary->stop;
$standby->promote;
is($standby->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('job') WHERE state = 'done'}), '0', 'promoted');
$standby->safe_psql('postgres', "COMMIT PREPARED 'promoted'");
$standby->safe_psql('postgres', q{SELECT jobstate.take('job', 'ready', 'done', n => 3); DELETE FROM job WHERE id = 50});
is($standby->safe_psql('postgres', q{SELECT state, sum(n) FROM jobstate.counts('job') GROUP BY 1 ORDER BY 1}),
	"done|4\nready|45", 'it counts on');
is($standby->safe_psql('postgres', 'SELECT jobstate.fold() > 0'), 't', 'it folds');
is($standby->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'and is right');
$standby->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 11|40P01|deadlock detected/, $_->name . ' did not crash') for $primary, $standby;

done_testing();
