
# What is dumped comes back: machines, attachments, rollups, the families' tables and
# the user's. The counters do not, and need not: until somebody counts, counts() scans.
# As a superuser and as a database owner who is none, in every format.
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
	CREATE DATABASE source OWNER regress_owner;
});

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my @owner = ('--username', 'regress_owner');

sub as_owner
{
	my ($db, $sql) = @_;
	return $node->safe_psql($db, $sql, extra_params => \@owner);
}

as_owner('source', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2, "lost": -3}',
		'{ready -> done: work, ready -> lost}', '{ready}');
	CREATE TYPE "odd name" AS ENUM ('ready', 'done');
	SELECT jobstate.define_machine('words', '{"ready": 1, "done": 2}', '{ready -> done}');

	CREATE TABLE job (id int PRIMARY KEY, queue text, due date, state smallint NOT NULL);
	SELECT jobstate.attach('job', 'phase', 'state', '{queue,due}');
	INSERT INTO job SELECT n, nullif(n % 4, 3)::text, date '2024-02-29' - n % 2, 1 FROM generate_series(1, 200) n;
	UPDATE job SET state = 2 WHERE id <= 90;
	UPDATE job SET state = -3 WHERE id BETWEEN 100 AND 110;
	SELECT jobstate.prune('job', '1 year', 'due', 40);

	CREATE SCHEMA app;
	CREATE TABLE app."Mixed Case" ("the id" int, region int, "State" "odd name" NOT NULL, PRIMARY KEY ("the id", region))
		PARTITION BY LIST (region);
	CREATE TABLE app.region_1 PARTITION OF app."Mixed Case" FOR VALUES IN (1);
	CREATE TABLE app.region_2 PARTITION OF app."Mixed Case" FOR VALUES IN (2);
	INSERT INTO app."Mixed Case" SELECT n, 1 + n % 2, 'ready' FROM generate_series(1, 50) n;
	SELECT jobstate.attach('app."Mixed Case"', 'words', 'State', '{region}');
	UPDATE app."Mixed Case" SET "State" = 'done' WHERE "the id" <= 20;

	SELECT jobstate.install('uploads');
	INSERT INTO jobstate.upload (repo_id, commit_sha) SELECT n % 3, 'c' || n % 5 FROM generate_series(1, 60) n;
	UPDATE jobstate.upload SET state_id = 2 WHERE id % 2 = 0;
	GRANT EXECUTE ON FUNCTION jobstate.take TO regress_worker;
	SELECT jobstate.fold();
	UPDATE job SET state = 2 WHERE id BETWEEN 150 AND 160;
});

# Everything that anybody can ask about the attached tables
sub answers
{
	my ($db) = @_;
	return as_owner($db, q{
		SELECT a.target, t.* FROM jobstate.attachment a, jobstate.totals(a.target) t
		 WHERE t.total <> 0 ORDER BY a.target::text, t.group_key::text, t.state;
		SELECT target, machine, state_column, group_by, watched FROM jobstate.attachments ORDER BY target::text;
		SELECT * FROM jobstate.machines ORDER BY name;
		SELECT * FROM jobstate.transitions;
		SELECT target, group_key, state_id, day, n FROM jobstate.rollup ORDER BY target::text, group_key::text, state_id, day;
		SELECT jobstate.mermaid('phase', 'job');
	});
}

my $expected = answers('source');
like($expected, qr{^job\|.*\|2024-02-29\|10$}m, 'part of the source is rolled up');

sub new_database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db OWNER regress_owner TEMPLATE template0");
}

# The restored database answers as the source does, before and after it is counted.
sub check_restored
{
	my ($db, $how) = @_;
	is(answers($db), $expected, "$how: same answers by scanning");
	is(as_owner($db, 'SELECT count(*) FROM jobstate.attachments WHERE counted'), '0', "$how: nothing is counted yet");
	is(as_owner($db, 'SELECT * FROM jobstate.verify()'), '', "$how: and nothing has drifted");

	# what is written meanwhile is not lost
	as_owner($db, q{BEGIN; UPDATE job SET state = 2 WHERE id = 170; DELETE FROM app."Mixed Case" WHERE "the id" = 50; COMMIT});
	is(as_owner($db, 'SELECT sum(n) FROM jobstate.counts(\'app."Mixed Case"\')'), '49', "$how: writes are seen");

	as_owner($db, 'CALL jobstate.maintain()');
	is(as_owner($db, 'SELECT count(*) FROM jobstate.attachments WHERE NOT counted'), '0', "$how: maintain() counts all");
	is(as_owner($db, 'SELECT * FROM jobstate.verify()'), '', "$how: the counters are right");

	as_owner($db, q{UPDATE job SET state = 1 WHERE false; INSERT INTO job VALUES (201, '0', '2024-02-28', 1);
		INSERT INTO app."Mixed Case" VALUES (50, 1, 'ready')});
	my ($ret, $out, $err) = $node->psql($db, 'UPDATE job SET state = 1 WHERE id = 170', extra_params => \@owner);
	like($err, qr/illegal state transition/, "$how: the guard is on");
	is(as_owner($db, 'SELECT * FROM jobstate.verify()'), '', "$how: and they stay right");
	is( as_owner($db, q{SELECT DISTINCT relowner::regrole FROM pg_class
		 WHERE relnamespace = 'jobstate'::regnamespace AND relname LIKE 'segment%' OR relname = 'base_recent'}),
		scalar getpwuid($>), "$how: the log is nobody else's");
}

# What the owner granted, pg_database_owner did, and only a superuser can speak in its name. The owner
# restores without grants, or leaves those lines out: then the same grants are the owner's.
my %as = (
	'a superuser' => [ '--username', scalar getpwuid($>) ],
	'the owner' => [ '--no-privileges', '--username', 'regress_owner' ]);
my $n = 0;
for my $who (sort keys %as)
{
	my @as = @{ $as{$who} };
	my $granted = $who eq 'a superuser' ? 't' : 'f';
	my $from = $node->connstr('source');

	# plain
	my $db = 'copy_' . ++$n;
	new_database($db);
	$node->command_ok([ 'pg_dump', @as, '-f', "$tmp/$db.sql", '-d', $from ], "plain dump by $who");
	$node->command_ok([ 'psql', '-qX', '-U', $as[-1], '-v', 'ON_ERROR_STOP=1', '-f', "$tmp/$db.sql", '-d', $node->connstr($db) ],
		"plain restore by $who");
	check_restored($db, "plain, $who");

	# custom, in parallel
	$db = 'copy_' . ++$n;
	new_database($db);
	$node->command_ok([ 'pg_dump', @as, '-Fc', '-f', "$tmp/$db.dump", '-d', $from ], "custom dump by $who");
	$node->command_ok([ 'pg_restore', @as, '-e', '-j', '2', '-d', $node->connstr($db), "$tmp/$db.dump" ],
		"parallel restore by $who");
	check_restored($db, "custom, $who");
	is(as_owner($db, q{SELECT has_function_privilege('regress_worker',
		'jobstate.take(regclass, text, text, jsonb, integer)', 'EXECUTE')}), $granted, "grants restored by $who: $granted");
}

# Grants that the owner restores: one kind of line is left out.
new_database('granted');
$node->command_ok([ 'pg_dump', '--username', 'regress_owner', '-Fc', '-f', "$tmp/granted.dump", '-d', $node->connstr('source') ], 'dump with grants');
my $grants = '';
IPC::Run::run([ 'pg_restore', '-f', '-', "$tmp/granted.dump" ], '|', [ 'sed', '/^SET SESSION AUTHORIZATION pg_database_owner;$/d' ],
	'|', [ 'psql', '-qX', '-U', 'regress_owner', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('granted') ], '>', '/dev/null', '2>', \$grants)
  or diag $grants;
is(as_owner('granted', $_), as_owner('source', $_), 'the owner restores grants as they were') for
	q{SELECT p.oid::regprocedure, array_agg(a::text ORDER BY a::text) FROM pg_proc p, unnest(p.proacl) a
	   WHERE p.pronamespace = 'jobstate'::regnamespace GROUP BY p.oid ORDER BY p.oid::regprocedure::text};
check_restored('granted', 'with grants, the owner');

# First the schema, then the data, as a superuser: the triggers are there already and
# are switched off meanwhile.
new_database('apart');
$node->command_ok([ 'pg_dump', '-s', '-f', "$tmp/schema.sql", '-d', $node->connstr('source') ], 'schema only');
$node->command_ok([ 'pg_dump', '-a', '--disable-triggers', '-f', "$tmp/data.sql", '-d', $node->connstr('source') ], 'data only');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$tmp/$_.sql", '-d', $node->connstr('apart') ], "restore of the $_")
  for qw(schema data);
check_restored('apart', 'schema and data apart');

# A table alone does not take its attachment along; one whose triggers come without
# their attachment says so.
new_database('alone');
as_owner('alone', 'CREATE EXTENSION jobstate');
$node->command_ok([ 'pg_dump', '-t', 'job', '-f', "$tmp/job.sql", '-d', $node->connstr('source') ], 'one table');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$tmp/job.sql", '-d', $node->connstr('alone') ], 'restore of one table');
my ($ret, $out, $err) = $node->psql('alone', 'DELETE FROM job', extra_params => \@owner);
like($err, qr/is not attached/, 'its triggers say that it is not attached');

$node->stop;
done_testing();
