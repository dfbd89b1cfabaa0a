
# A database owner who is no superuser installs the extension and uses all of it; a
# worker needs EXECUTE and its rights on its own table, and nothing on the log. Nobody
# gets more than he has by planting things of the same name.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE regress_owner LOGIN;
	CREATE ROLE regress_worker LOGIN;
	CREATE ROLE regress_mallory LOGIN;
	GRANT regress_worker TO regress_owner;
	CREATE DATABASE own OWNER regress_owner;
	REVOKE TEMPORARY ON DATABASE own FROM PUBLIC;
	GRANT TEMPORARY, CREATE ON DATABASE own TO regress_mallory;
});

sub as
{
	my ($role, $sql) = @_;
	return $node->safe_psql('own', $sql, extra_params => [ '--username', "regress_$role" ]);
}

sub refused
{
	my ($role, $sql, $error, $what) = @_;
	my ($ret, $out, $err) = $node->psql('own', $sql, extra_params => [ '--username', "regress_$role" ]);
	like($err, $error, $what || "$role is refused: $sql");
}

# What mallory plants records in whose name it is run.
sub trap
{
	my ($what, $signature, $result, $value) = @_;
	return "CREATE FUNCTION $signature RETURNS $result LANGUAGE plpgsql AS \$\$
		BEGIN INSERT INTO trap.caught VALUES (current_user, '$what'); RETURN $value; END \$\$;\n";
}

my %operators = (
	'=' => [ 'oid, regnamespace', 'oid, regclass', 'regclass, oid', 'name, text', 'text, name', 'int2, int2', 'int4, int4', 'int8, int8', 'text, text', '"char", "char"' ],
	'<>' => [ 'text, text', 'oid, regclass' ],
	'<' => [ 'timestamptz, timestamptz', 'timestamptz, date' ],
	'>' => [ 'int8, int4', 'int8, int8' ],
	'~' => [ 'name, name', 'name, text', 'text, text' ],
	'||' => [ 'text, text', 'text, name' ]);
my %functions = (
	format => [ 'text, name', 'text, text', 'text, regclass, text' ],
	starts_with => [ 'name, text', 'name, name' ],
	to_regclass => ['text'],
	now => [''],
	clock_timestamp => [''],
	jsonb_object_keys => ['jsonb'],
	timezone => [ 'text, timestamptz', 'text, timestamp' ],
	pg_partition_tree => ['oid'],
	counts => [ 'regclass, jsonb', 'oid, jsonb', 'text, text' ],
	regexp_match => [ 'text, text', 'text, name' ]);
my %aggregates = (array_agg => 'text', jsonb_object_agg => 'text, smallint', string_agg => 'text, text');

sub plant
{
	my ($schema) = @_;
	my $sql = '';
	my $n = 0;
	for my $name (sort keys %operators)
	{
		for my $types (@{ $operators{$name} })
		{
			my ($left, $right) = split /, /, $types;
			my $result = $name eq '||' ? 'text' : 'boolean';
			$sql .= trap("operator $name ($types)", "$schema.op_" . ++$n . "($types)", $result, 'NULL')
			  . "CREATE OPERATOR $schema.$name (LEFTARG = $left, RIGHTARG = $right, FUNCTION = $schema.op_$n);\n";
		}
	}
	for my $name (sort keys %functions)
	{
		$sql .= trap("$name($_)", "$schema.$name($_)", 'text', 'NULL') for @{ $functions{$name} };
	}
	for my $name (sort keys %aggregates)
	{
		$sql .= trap("$name($aggregates{$name})", "$schema.collect_$name(int, $aggregates{$name})", 'int', '1')
		  . "CREATE AGGREGATE $schema.$name($aggregates{$name}) (SFUNC = $schema.collect_$name, STYPE = int);\n";
	}
	for my $table (qw(machine state transition attachment rollup segment_0 base_recent pg_class pg_proc pg_trigger pg_attribute))
	{
		$sql .= "CREATE TABLE $schema.$table (target int, machine int, name int);\n";
	}
	as('mallory', $sql);
}

sub nothing_caught
{
	my ($what) = @_;
	is($node->safe_psql('own', q{SET search_path = pg_catalog; SELECT string_agg(DISTINCT who || ': ' || what, ', ') FROM trap.caught}),
		'', "nothing that was planted is run: $what");
	$node->safe_psql('own', 'TRUNCATE trap.caught');
}

# Before it is installed: better-matching operators and functions where the script looks.
as('mallory', 'CREATE SCHEMA trap; CREATE TABLE trap.caught (who text, what text); GRANT USAGE ON SCHEMA trap TO PUBLIC; GRANT ALL ON trap.caught TO PUBLIC');
as('owner', 'GRANT CREATE ON SCHEMA public TO regress_mallory');
plant('public');

refused('worker', 'CREATE EXTENSION jobstate', qr/permission denied/);
as('mallory', 'CREATE SCHEMA jobstate');
refused('owner', 'CREATE EXTENSION jobstate', qr/schema "jobstate" already exists/, 'a schema of that name is not taken over');
as('mallory', 'DROP SCHEMA jobstate');
as('owner', 'CREATE EXTENSION jobstate');
nothing_caught('by CREATE EXTENSION');
is( $node->safe_psql('own', q{SET search_path = pg_catalog; SELECT string_agg(DISTINCT relowner::regrole::text, ' ')
		 FROM pg_class WHERE relnamespace = 'jobstate'::regnamespace}),
	scalar getpwuid($>), 'the catalogue and the log are not the owner\'s');
as('owner', 'SELECT * FROM jobstate.attachments; SELECT * FROM jobstate.machines; SELECT * FROM jobstate.transitions');
nothing_caught('by the views');

# The owner uses everything, with all that planted stuff in front of his path.
plant('trap');
my $path = 'SET search_path = trap, public, pg_catalog;';
as('owner', "$path
	SELECT jobstate.define_machine('phase', '{\"ready\": 1, \"done\": 2, \"gone\": 3}', '{ready -> done, done -> ready}', NULL, '{done,gone}');
	SELECT jobstate.define_machine('phase', '{\"ready\": 1, \"done\": 2}', '{ready -> done, done -> ready}', NULL, '{done}');
	CREATE TABLE public.job (id int PRIMARY KEY, queue text, at timestamptz DEFAULT '2024-05-05', state smallint NOT NULL);
	CREATE TABLE public.work (id int, kind int, state text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE public.work_1 PARTITION OF public.work FOR VALUES FROM (0) TO (1000);
	INSERT INTO public.job SELECT n, 'q', '2024-05-05', 1 FROM pg_catalog.generate_series(1, 20) n;
	SELECT * FROM jobstate.check('public.job', 'phase', 'state', '{queue}');
	SELECT jobstate.attach('public.job', 'phase', 'state', '{queue}');
	SELECT jobstate.attach('public.work', 'phase', 'state', '{kind}');
	INSERT INTO public.work VALUES (1, 1, 'ready'), (2, 1, 'ready'), (3, 2, 'done');
	SELECT jobstate.transition('public.job', '{1,2,3}', 'done');
	SELECT jobstate.transition('public.job', '{2}', 'ready', 'done');
	SELECT jobstate.take('public.job', 'ready', 'done', '{\"queue\": \"q\"}', 2);
	SELECT jobstate.take('public.work', 'ready', 'done');
	UPDATE public.job SET state = 2 WHERE id OPERATOR(pg_catalog.=) 9;
	SELECT jobstate.prune('public.job', '1 year', 'at', 3);
	SELECT * FROM jobstate.counts('public.job', '{\"queue\": \"q\"}');
	SELECT * FROM jobstate.totals('public.job', '{\"queue\": \"q\"}');
	SELECT * FROM jobstate.verify();
	SELECT jobstate.fold();
	CALL jobstate.maintain();
	SELECT jobstate.rebuild('public.job');
	SELECT jobstate.mermaid('phase', 'public.job');
	SELECT jobstate.dot('phase', 'public.work');
	ALTER TABLE public.job RENAME queue TO lane;
	ALTER TABLE public.work_1 DISABLE TRIGGER jobstate_watch;
	ALTER TABLE public.work_1 ENABLE ALWAYS TRIGGER jobstate_watch;
	SELECT jobstate.recount('public.work');
	TRUNCATE public.work;
	SELECT jobstate.install('uploads');
	INSERT INTO jobstate.upload (repo_id, commit_sha) VALUES (1, 'a'), (1, 'a');
	SELECT jobstate.upload_finish(u.upload_id, true, u.token) FROM jobstate.upload_take(1, 'a', 5) u;
	SELECT * FROM jobstate.attachments;
	SELECT * FROM jobstate.machines;
	SELECT jobstate.detach('public.work');
	DROP TABLE public.work;
	SELECT jobstate.define_machine('other', '{\"a\": 1}', '{}');
	SELECT jobstate.drop_machine('other');");
nothing_caught('by the owner');
is(as('owner', q{SELECT state, live, rolled_up FROM jobstate.totals('job') ORDER BY 1}), "done|2|3\nready|15|0", 'it all did what it should');
is(as('owner', 'SELECT * FROM jobstate.verify()'), '', 'and the counts are right');

# The worker: EXECUTE on what it calls, and rights on its table.
as('owner', q{GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON job TO regress_worker;
	GRANT EXECUTE ON FUNCTION jobstate.transition, jobstate.take TO regress_worker;
	CREATE TABLE secret (id int PRIMARY KEY, state smallint); INSERT INTO secret VALUES (1, 1);
	SELECT jobstate.attach('secret', 'phase', 'state')});
as('worker', "$path
	SELECT jobstate.take('public.job', 'ready', 'done', NULL, 2);
	SELECT jobstate.transition('public.job', '{5}', 'done');
	BEGIN; INSERT INTO public.job (id, lane, state) VALUES (100, 'w', 1); SAVEPOINT s; DELETE FROM public.job; ROLLBACK TO s; COMMIT;
	SELECT * FROM jobstate.counts('public.job');
	SELECT * FROM jobstate.totals('public.job');
	SELECT * FROM jobstate.verify('public.job');");
nothing_caught('by the worker');
as('owner', 'SET ROLE regress_worker; SELECT jobstate.take(\'public.job\', \'ready\', \'done\'); RESET ROLE; SELECT jobstate.fold()');
is(as('owner', q{SELECT * FROM jobstate.verify('job')}), '', 'its writes are counted');

for my $table (qw(segment_0 segment_7 base_recent base_settled_0 attachment machine state transition rollup))
{
	refused('worker', "INSERT INTO jobstate.$table DEFAULT VALUES", qr/permission denied for table $table/);
	refused('worker', "DELETE FROM jobstate.$table", qr/permission denied for table $table/);
}
for my $table (qw(segment_0 base_recent rollup))
{
	refused('worker', "SELECT * FROM jobstate.$table", qr/permission denied for table $table/);
}
refused('owner', 'TRUNCATE jobstate.segment_0', qr/permission denied for table segment_0/);
for my $call ('jobstate.fold()', q{jobstate.define_machine('x', '{"a": 1}', '{}')}, q{jobstate.drop_machine('phase')},
	q{jobstate.attach('job', 'phase', 'state')}, q{jobstate.detach('job')}, q{jobstate.rebuild('job')}, q{jobstate.recount('job')},
	q{jobstate.uncount('job')}, q{jobstate.prune('job', '1 day', 'at')}, q{jobstate.check_stranded('phase', '{"a": 1}')},
	q{jobstate.install('uploads')})
{
	refused('worker', "SELECT $call", qr/permission denied for function/);
}
refused('worker', 'CALL jobstate.maintain()', qr/permission denied for procedure/);
is(as('worker', q{SET client_min_messages = error; SET jobstate.auto_maintain = off;
	SELECT FROM jobstate.counts('public.job') LIMIT 0; SHOW jobstate.auto_maintain}), 'on', 'auto_maintain is not for the worker to set');
for my $call (qw(counts totals verify verify_one))
{
	refused('worker', "SELECT * FROM jobstate.$call('secret')", qr/permission denied for table secret/);
}
refused('worker', q{SELECT jobstate.mermaid('phase', 'secret')}, qr/permission denied for table secret/);
refused('worker', q{SELECT jobstate.take('secret', 'ready', 'done')}, qr/permission denied for table secret/);
refused('worker', q{SELECT jobstate.transition('secret', '{1}', 'done')}, qr/permission denied for table secret/);
is($node->safe_psql('own', q{SET search_path = pg_catalog; SELECT string_agg(oid::regprocedure::text, ' ') FROM pg_proc
	 WHERE pronamespace = 'jobstate'::regnamespace AND prosecdef AND has_function_privilege('regress_worker', oid, 'EXECUTE')
	   AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)}), '', 'no definer function is for everybody');

# Owning a table is not enough to attach it, nor is EXECUTE to attach another's.
as('owner', 'GRANT CREATE ON SCHEMA public TO regress_worker');
as('worker', 'CREATE TABLE mine (id int PRIMARY KEY, state smallint)');
refused('worker', q{SELECT jobstate.attach('mine', 'phase', 'state')}, qr/permission denied for function attach/);
as('owner', 'GRANT EXECUTE ON FUNCTION jobstate.attach, jobstate.detach, jobstate.rebuild, jobstate.recount TO regress_worker');
is(as('worker', q{SELECT jobstate.attach('mine', 'phase', 'state')}), '0', 'with EXECUTE the worker attaches its own');
as('worker', 'INSERT INTO mine VALUES (1, 1); ALTER TABLE mine RENAME state TO phase; UPDATE mine SET phase = 2');
for my $verb (qw(detach rebuild recount))
{
	refused('worker', "SELECT jobstate.$verb('job')", qr/must be owner of table job/);
}
refused('worker', q{SELECT jobstate.attach('secret', 'phase', 'state')}, qr/must be owner of table secret/);
as('worker', 'DROP TABLE mine');
is(as('owner', q{SELECT count(*) FROM jobstate.attachment WHERE target::text ~ 'mine|^\d'}), '0', 'its table goes without a trace');

# What a row holds is told only to those who may read it.
as('owner', 'GRANT INSERT, UPDATE (state) ON secret TO regress_mallory; GRANT SELECT (state) ON secret TO regress_mallory');
refused('mallory', 'INSERT INTO public.secret VALUES (4711, 9)', qr/unknown state(?!.*4711)/s, 'no value in the error of who may not read it');

# A temporary table in front of everything
as('mallory', q{CREATE TEMPORARY TABLE attachment (target int); CREATE TEMPORARY TABLE machine (name int);
	CREATE TEMPORARY TABLE job (id int, state int); SELECT * FROM jobstate.attachments; SELECT * FROM jobstate.machines;
	SELECT jobstate.mermaid('phase')});
nothing_caught('by anybody');

# And out again
as('owner', 'DROP EXTENSION jobstate CASCADE');
is(as('owner', 'UPDATE public.job SET state = 1; SELECT count(*) FROM public.job WHERE state IS NOT NULL'), '18', 'the tables stay');
$node->stop;
done_testing();
