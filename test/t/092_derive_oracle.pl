# Clients at all three isolation levels change children of one hot parent and of many
# others, in any order, with savepoints and two-phase commit. In every snapshot each
# parent is what its children say, by an evaluation in SQL that knows nothing of rules;
# nobody deadlocks, and below SERIALIZABLE nobody fails.
# JOBSTATE_DERIVE_SECONDS and JOBSTATE_SEED make it run longer and otherwise.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{JOBSTATE_DERIVE_SECONDS} || 12;
my $seed = $ENV{JOBSTATE_SEED} || 1;
my $clients = 3;    # per isolation level

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
log_statement = none
deadlock_timeout = 50ms
max_connections = 50
max_prepared_transactions = 30
max_pred_locks_per_transaction = 1000
});
$node->start;

# Client c owns the children c * 1000 to c * 1000 + 59, which are in the partition of their
# zone; parents are everybody's, number 0 is the hot one. "task" has no foreign key: its
# parents come and go, at any time before or after their children.
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('child', '{"waiting": 1, "running": 2, "failed": 3, "over": 4}',
		(SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,running,failed,over}'::text[]) a,
			unnest('{waiting,running,failed,over}'::text[]) b WHERE a <> b), '{waiting,running,failed,over}');
	SELECT jobstate.define_machine('parent', '{"waiting": 1, "running": 2, "stopped": 3, "failed": 4, "over": 5}',
		(SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,running,stopped,failed,over}'::text[]) a,
			unnest('{waiting,running,stopped,failed,over}'::text[]) b WHERE a <> b), '{waiting}', '{failed,over}');
	SELECT jobstate.define_rules('rollup', ARRAY['empty -> waiting', 'any failed/halt -> failed',
		'any failed and later not failed, over -> stopped', 'any failed -> failed', 'any running -> running',
		'all over -> over', 'any over -> running', 'always -> waiting']);
	SELECT jobstate.define_rules('top', ARRAY['empty -> waiting', 'any failed -> failed', 'any stopped -> stopped',
		'all over -> over', 'none running, over -> waiting', 'always -> running']);

	CREATE TABLE org (id int PRIMARY KEY, state smallint NOT NULL DEFAULT 1);
	CREATE TABLE run (id int PRIMARY KEY, org int NOT NULL REFERENCES org, state text NOT NULL DEFAULT 'waiting',
		completed_at timestamptz, error text, why text);
	CREATE TABLE step (id int, zone int NOT NULL, run int REFERENCES run, state text NOT NULL DEFAULT 'waiting',
		policy text, ord int NOT NULL DEFAULT 0, message text, PRIMARY KEY (id, zone)) PARTITION BY LIST (zone);
	CREATE TABLE step_0 PARTITION OF step FOR VALUES IN (0);
	CREATE TABLE step_1 PARTITION OF step FOR VALUES IN (1, 2);
	CREATE INDEX ON step (run);
	CREATE INDEX ON run (org);
	CREATE TABLE batch (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
	CREATE TABLE task (id int PRIMARY KEY, batch int, state text NOT NULL DEFAULT 'waiting', policy text, ord int NOT NULL DEFAULT 0);
	CREATE INDEX ON task (batch);
	SELECT jobstate.attach('org', 'parent', 'state'), jobstate.attach('run', 'parent', 'state'),
		jobstate.attach('batch', 'parent', 'state'), jobstate.attach('step', 'child', 'state'), jobstate.attach('task', 'child', 'state');
	SELECT jobstate.derive('run', 'step', 'run', 'rollup', completed_at => 'completed_at', error => 'error', reason => 'why',
		child_error => 'message', child_variant => 'policy', child_order => '{ord,id}');
	SELECT jobstate.derive('org', 'run', 'org', 'top');
	SELECT jobstate.derive('batch', 'task', 'batch', 'rollup', child_variant => 'policy', child_order => '{ord,id}');
	INSERT INTO org SELECT n FROM generate_series(0, 4) n;
	INSERT INTO run (id, org) SELECT n, n % 5 FROM generate_series(0, 40) n;
	INSERT INTO step (id, zone, run, ord) SELECT c * 1000 + n, n % 3, n % 41, n FROM generate_series(0, 8) c, generate_series(0, 59, 2) n;
	INSERT INTO task (id, batch) SELECT c * 1000 + n, (n % 9) * 1000 + c FROM generate_series(0, 8) c, generate_series(0, 59) n;

	-- what "rollup" says, by hand
	CREATE FUNCTION judge(ids int[], states text[], policies text[], ords int[]) RETURNS text LANGUAGE sql AS $$
		WITH child AS (SELECT row_number() OVER (ORDER BY ord, id) AS place, state, policy
		                 FROM unnest(ids, states, policies, ords) u (id, state, policy, ord))
		SELECT CASE WHEN NOT EXISTS (SELECT FROM child) THEN 'waiting'
		            WHEN EXISTS (SELECT FROM child WHERE state = 'failed' AND policy = 'halt') THEN 'failed'
		            WHEN EXISTS (SELECT FROM child WHERE state IN ('waiting', 'running')
		                            AND place > (SELECT min(place) FROM child WHERE state = 'failed')) THEN 'stopped'
		            WHEN EXISTS (SELECT FROM child WHERE state = 'failed') THEN 'failed'
		            WHEN EXISTS (SELECT FROM child WHERE state = 'running') THEN 'running'
		            WHEN NOT EXISTS (SELECT FROM child WHERE state <> 'over') THEN 'over'
		            WHEN EXISTS (SELECT FROM child WHERE state = 'over') THEN 'running'
		            ELSE 'waiting' END
	$$;
	CREATE VIEW wrong AS
		SELECT 'run' AS what, r.id, r.state, f.state AS should_be
		  FROM run r LEFT JOIN LATERAL (
			SELECT judge(array_agg(id), array_agg(s.state), array_agg(policy), array_agg(ord)) AS state,
			       (array_agg(message ORDER BY ord, id) FILTER (WHERE s.state = 'failed'))[1] AS error
			  FROM step s WHERE s.run = r.id) f ON true
		 WHERE r.state <> f.state OR (r.completed_at IS NULL) = (f.state IN ('failed', 'over'))
		    OR f.state = 'failed' AND r.error IS DISTINCT FROM f.error
		UNION ALL
		SELECT 'batch', b.id, b.state, f.state
		  FROM batch b LEFT JOIN LATERAL (
			SELECT judge(array_agg(id), array_agg(t.state), array_agg(policy), array_agg(ord)) AS state
			  FROM task t WHERE t.batch = b.id) f ON true
		 WHERE b.state <> f.state
		UNION ALL
		SELECT 'org', o.id, n.name, f.state
		  FROM org o JOIN unnest('{waiting,running,stopped,failed,over}'::text[]) WITH ORDINALITY n (name, id) ON n.id = o.state
		  LEFT JOIN LATERAL (
			SELECT CASE WHEN count(*) = 0 THEN 'waiting' WHEN bool_or(r.state = 'failed') THEN 'failed'
			            WHEN bool_or(r.state = 'stopped') THEN 'stopped' WHEN bool_and(r.state = 'over') THEN 'over'
			            WHEN bool_and(r.state = 'waiting') THEN 'waiting' ELSE 'running' END AS state
			  FROM run r WHERE r.org = o.id) f ON true
		 WHERE n.name <> f.state;
	VACUUM ANALYZE;
});
is($node->safe_psql('postgres', 'TABLE wrong'), '', 'right to begin with');

my $own = join '', map { "\\set $_ :client * 1000 + random(0, 59)\n" } qw(a b c);
# a third of all goes to parent 0
$own .= join '', map { "\\set $_ (random(0, 2) / 2) * random(0, 40)\n" } qw(p q);
$own .= join '', map { "\\set $_ random(1, 4)\n" } qw(s t u);
$own .= "\\set x random(0, 8) * 1000 + random(0, 11)\n\\set y :client * 1000 + random(0, 11)\n";
my $state = sub { "('{waiting,running,failed,over}'::text[])[:$_[0]]" };
my $step = sub { "UPDATE step SET state = " . $state->($_[1]) . ", message = 'no ' || id || '/' || :$_[1] WHERE id = :$_[0];" };
my $task = sub { "UPDATE task SET state = " . $state->($_[1]) . " WHERE id = :$_[0];" };
my %sql = (
	one => $step->('a', 's'),
	several => 'BEGIN;' . $step->('c', 's') . "SAVEPOINT s; DELETE FROM step WHERE id = :a;
		UPDATE step SET run = :p WHERE id = :b; ROLLBACK TO s;" . $step->('a', 't') . $step->('b', 'u') . 'COMMIT;',
	come_and_go => "BEGIN; DELETE FROM step WHERE id = :a; INSERT INTO step
		SELECT :b, :b % 3, :p, " . $state->('s') . ", CASE WHEN :b % 7 = 0 THEN 'halt' END, random() * 20, 'new ' || :b
		WHERE NOT EXISTS (SELECT FROM step WHERE id = :b); COMMIT;",
	move => "BEGIN; UPDATE step SET run = nullif(:p, 40) WHERE id = :a; SAVEPOINT s;
		UPDATE step SET zone = (zone + 1) % 3, run = :q WHERE id = :b; RELEASE s;
		UPDATE step SET ord = (ord + 7) % 20, policy = CASE WHEN policy IS NULL AND :c % 9 = 0 THEN 'halt' END WHERE id = :c; COMMIT;",
	at_once => 'BEGIN;' . $step->('a', 's') . 'SAVEPOINT s; SELECT jobstate.derive_now();'
		. $step->('a', 't') . 'SELECT jobstate.derive_now(); ROLLBACK TO s; SAVEPOINT t;' . $step->('a', 'u') . 'ROLLBACK TO t; COMMIT;',
	prepared => 'BEGIN;' . $step->('a', 's') . $step->('b', 't') . "PREPARE TRANSACTION 'client_:client'; COMMIT PREPARED 'client_:client';",
	not_prepared => 'BEGIN;' . $step->('a', 's') . $step->('b', 't') . $task->('c', 'u')
		. "PREPARE TRANSACTION 'client_:client'; ROLLBACK PREPARED 'client_:client';",
	orphan => 'BEGIN;' . $task->('a', 's') . 'UPDATE task SET batch = :x WHERE id = :b;' . $task->('c', 't') . 'COMMIT;',
	parent => 'BEGIN;' . $task->('a', 's') . "INSERT INTO batch SELECT :y WHERE NOT EXISTS (SELECT FROM batch WHERE id = :y);
		UPDATE task SET batch = :x WHERE id = :b; COMMIT;",
	parent_prepared => "BEGIN; INSERT INTO batch SELECT :y WHERE NOT EXISTS (SELECT FROM batch WHERE id = :y);
		PREPARE TRANSACTION 'client_:client'; COMMIT PREPARED 'client_:client';",
	childless => 'DELETE FROM batch WHERE id = :y;',
);
# Of the bare tables, too, a row cannot be deleted that was changed since the snapshot.
my %without = ('repeatable read' => qr/childless/, 'serializable' => qr/childless/);

my $scripts = PostgreSQL::Test::Utils::tempdir();    # other tests write to the folder above it
my %run;
my $first = 0;
for my $level ('read committed', 'repeatable read', 'serializable')
{
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=' . ($level =~ s/ /\\ /r);
	my @files;
	for my $name (grep { !$without{$level} || !/$without{$level}/ } sort keys %sql)
	{
		my $file = "$scripts/$name\_$first.sql";
		append_to_file($file, "\\set client $first + :client_id\n$own$sql{$name}\n");
		push @files, '-f', $file;
	}
	my ($out, $err) = ('', '');
	$run{$level} = { out => \$out, err => \$err };
	$run{$level}{process} = IPC::Run::start(
		[
			'pgbench', '-n', '-c', $clients, '-j', 1, '-T', $seconds, '--random-seed', $seed + $first,
			'--failures-detailed', @files, $node->connstr('postgres')
		],
		'>', \$out, '2>', \$err);
	$first += $clients;
}
my ($looks, $wrong) = (0, '');
my $until = time + $seconds;
while (time < $until && $wrong eq '')
{
	$wrong = $node->safe_psql('postgres', 'BEGIN ISOLATION LEVEL REPEATABLE READ; TABLE wrong; COMMIT');
	$looks++;
}
is($wrong, '', 'every snapshot is right');
note("$looks looks meanwhile");
for my $level (sort keys %run)
{
	$run{$level}{process}->finish;
	is($run{$level}{process}->result(0), 0, "$level: no client gave up") or diag(${ $run{$level}{err} });
	my $out = ${ $run{$level}{out} } =~ s/SQL script 1:.*//sr;    # without the details of each script
	like($out, qr/number of transactions actually processed: [1-9]\d\d/, "$level: many were there");
	like($out, qr/number of deadlock failures: 0 /, "$level: no deadlock");
	like($out, qr/number of serialization failures: 0 /, "$level: no failure") if $level ne 'serializable';
	note(join "\n", grep { /processed|failures/ } split /\n/, $out);
}

is($node->safe_psql('postgres', 'TABLE wrong'), '', 'right at the end');
is($node->safe_psql('postgres', "SELECT jobstate.rederive('run'), jobstate.rederive('org'), jobstate.rederive('batch')"),
	'0|0|0', 'rederive() agrees');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'and so do the counts');
my $log = slurp_file($node->logfile);
unlike($log, qr/deadlock detected/, 'no deadlock in the log');
unlike($log, qr/ERROR:  (?!could not serialize)/, 'no other error');
unlike($log, qr/PANIC|TRAP|signal 11/, 'no crash');

$node->stop;
done_testing();
