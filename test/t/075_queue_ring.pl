
# The ring turns under clients of all three isolation levels that enqueue, claim,
# complete, fail and forget jobs, while maintain() promotes, rescues, rotates and prunes:
# no job is lost, none completes twice, what was pruned is in the rollup, and nobody waits.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @length = $ENV{JOBSTATE_RING_SECONDS} ? ('-T', $ENV{JOBSTATE_RING_SECONDS}) : ('-t', 500);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
log_statement = none
jobstate.auto_maintain = off
deadlock_timeout = 3s
log_lock_waits = on
statement_timeout = 20s
max_pred_locks_per_transaction = 1000
});
$node->start;

# Small slots, so that the ring goes round many times, and everything ends soon.
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('queue');
	SELECT jobstate.queue_ring_define('{"slots": 8, "slot_jobs": 100, "retention": "0", "failed_retention": "2 s"}');
	SELECT jobstate.queue_define('q', '{"backoff": "20 ms", "lease": "2 s", "max_attempts": 1000}');
	SELECT jobstate.queue_define('strict', '{"lease": "2 s", "max_attempts": 1, "dead_letters": false}');
	CREATE TABLE enqueued (id bigint PRIMARY KEY);
	CREATE TABLE completed (id bigint PRIMARY KEY);
});

sub script
{
	my ($name, $sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	open my $handle, '>', $file or die;
	print $handle $sql;
	close $handle;
	return $file;
}

# An application writes its own row along with the job's. What is claimed is committed
# before it is worked on, and who fails to report it leaves it to rescue().
my $claim = q{SELECT coalesce(array_agg(id), '{}') AS ids, coalesce(array_agg(token), '{}') AS tokens
	FROM jobstate.claim('%s', 'w', %d) \gset};
my $enqueue = q{INSERT INTO enqueued SELECT id FROM jobstate.enqueue_many('%s', array_fill('k'::text, '{%2$d}'),
	array_fill('{}'::jsonb, '{%2$d}')%3$s) WHERE NOT duplicate;};
my $complete = q{INSERT INTO completed SELECT c FROM jobstate.complete(':ids'::bigint[], ':tokens'::bigint[]) c;};
my %sql = (
	enqueue => sprintf($enqueue, 'q', 10, ''),
	defer => sprintf($enqueue, 'q', 5, q{, run_ats => array_fill(clock_timestamp() + interval '50 ms', '{5}')}),
	work => sprintf("$claim\n$complete", 'q', 12),
	slow => sprintf("$claim\n\\sleep 100 ms\nSELECT count(*) FROM jobstate.heartbeat(':ids'::bigint[], ':tokens'::bigint[]);\n"
		. "\\sleep 100 ms\n$complete", 'q', 3),
	die => sprintf($claim, 'q', 1),
	again => sprintf("$claim\n" . q{SELECT count(*) FROM jobstate.fail(':ids'::bigint[], ':tokens'::bigint[], array_fill('no'::text, ARRAY[cardinality(':ids'::bigint[])]));}, 'q', 2),
	snooze => sprintf("$claim\n" . q{SELECT count(*) FROM jobstate.snooze(':ids'::bigint[], ':tokens'::bigint[], array_fill('10 ms'::interval, ARRAY[cardinality(':ids'::bigint[])]));}, 'q', 2),
	fail => "BEGIN;\n" . sprintf($enqueue, 'strict', 3, '') . "COMMIT;\n" . sprintf("$claim\n", 'strict', 3)
		. q{SELECT count(*) FROM jobstate.fail(':ids'::bigint[], ':tokens'::bigint[], array_fill('no'::text, ARRAY[cardinality(':ids'::bigint[])]));},
	cancel => q{SELECT count(*) FROM jobstate.cancel(ARRAY(SELECT w.id FROM jobstate.job_waiting w LIMIT 1));},
	count => q{SELECT sum(n) FROM jobstate.counts('jobstate.job', '{"queue": "q"}');
		SELECT sum(total) FROM jobstate.totals('jobstate.job');},
);
my %weight = (enqueue => 12, defer => 2, work => 14, cancel => 1, die => 1, slow => 1);

my %run;
for my $level ('read committed', 'repeatable read', 'serializable')
{
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=' . ($level =~ s/ /\\ /r);
	my @files = map { ('-f', script("$_\_" . substr($level, 0, 4), "$sql{$_}\n") . '@' . ($weight{$_} || 2)) } sort keys %sql;
	my ($out, $err) = ('', '');
	$run{$level} = { out => \$out, err => \$err };
	$run{$level}{process} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 2, '-j', 1, @length, '--failures-detailed', @files, $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);
}

my $noise = '';
while (grep { $_->{process}->pumpable } values %run)
{
	$_->{process}->pump_nb for grep { $_->{process}->pumpable } values %run;
	my ($ret, $out, $err) = $node->psql('postgres', 'CALL jobstate.maintain(); SELECT * FROM jobstate.verify()');
	$noise .= $err . $out;
}
is($noise, '', 'maintain() has nothing to say, and the counts are right meanwhile');

for my $level (sort keys %run)
{
	$run{$level}{process}->finish;
	is($run{$level}{process}->result(0), 0, "$level: no client gave up") or diag(${ $run{$level}{err} });
	like(${ $run{$level}{out} }, qr/number of transactions actually processed: [1-9]\d\d/, "$level: many were there");
	like(${ $run{$level}{out} }, qr/number of failed transactions: 0 /, "$level: no transaction failed")
		if $level eq 'read committed';
	note(grep { /processed|failed|latency/ } ${ $run{$level}{out} } =~ /^(\w.*\n)/mg);
}
cmp_ok($node->safe_psql('postgres', q{SELECT sum(rolled_up) FROM jobstate.totals('jobstate.job')}), '>', 500,
	'slots were pruned meanwhile');
unlike(slurp_file($node->logfile), qr/still waiting for/, 'nobody waited for a lock');

# What is left runs to its end: leases are over in two seconds, and nothing fails any more.
$node->safe_psql('postgres', q{
	CREATE PROCEDURE finish() LANGUAGE plpgsql AS $$
	DECLARE
		got record;
	BEGIN
		FOR round IN 1 .. 300 LOOP
			UPDATE jobstate.job SET run_at = clock_timestamp() WHERE slot = -1;
			COMMIT;
			PERFORM jobstate.rescue();
			COMMIT;
			PERFORM jobstate.promote(n => 100000);
			COMMIT;
			FOR got IN SELECT array_agg(c.id) AS ids, array_agg(c.token) AS tokens
			             FROM unnest('{q,strict}'::text[]) q, jobstate.claim(q, 'w', 100000) c HAVING count(*) > 0 LOOP
				INSERT INTO completed SELECT * FROM jobstate.complete(got.ids, got.tokens);
			END LOOP;
			COMMIT;
			EXIT WHEN NOT EXISTS (SELECT FROM jobstate.counts('jobstate.job')
			                       WHERE state IN ('available', 'running', 'deferred') AND n > 0);
			PERFORM pg_sleep(0.1);
		END LOOP;
	END $$;
	CALL finish();
});
is($node->safe_psql('postgres', q{SELECT state, n FROM jobstate.counts('jobstate.job')
	WHERE state IN ('available', 'running', 'deferred') AND n > 0}), '', 'every job has come to an end');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

my $totals = q{SELECT coalesce(sum(total), 0) FROM jobstate.totals('jobstate.job') WHERE state};
my $all = $node->safe_psql('postgres', 'SELECT count(*) FROM enqueued');
cmp_ok($all, '>', 2000, 'many jobs were enqueued');
is($node->safe_psql('postgres', "$totals = 'completed'"), $node->safe_psql('postgres', 'SELECT count(*) FROM completed'),
	'live and rolled up, every completed job is counted once');
is($node->safe_psql('postgres', "$totals IN ('completed', 'failed', 'cancelled')"), $all,
	'and all that was ever enqueued has ended, once');
is($node->safe_psql('postgres', 'SELECT count(*) FROM completed c WHERE NOT EXISTS (SELECT FROM enqueued e WHERE e.id = c.id)'),
	'0', 'nothing was completed that was not enqueued');

# Everything goes in the end, and the ring was round several times.
$node->safe_psql('postgres', q{UPDATE jobstate.queue_ring SET failed_retention = '0'});
$node->safe_psql('postgres', 'CALL jobstate.maintain()') for 1 .. 3;
cmp_ok($node->safe_psql('postgres', 'SELECT number / (slots * slot_jobs) FROM jobstate.queue_ring_now()'),
	'>=', 3, 'the ring has turned several times');
is($node->safe_psql('postgres', 'SELECT count(*) FROM jobstate.job j, jobstate.queue_ring_now() r WHERE j.slot <> r.slot'),
	'0', 'all but the current slot is empty');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM generate_series(0, 7) s
	WHERE pg_relation_size(format('jobstate.job_%s', s)::regclass) > 0}), '<=', 1, 'and truncated');
is($node->safe_psql('postgres', "$totals IN ('completed', 'failed', 'cancelled')"), $all, 'the rollup has it all');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

$node->stop;
done_testing();
