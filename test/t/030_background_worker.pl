
# The fold starts itself: a segment that is full is folded by a background worker that
# nobody configured and that goes away again when there is nothing left to do. Switched off, nothing is folded.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;

my $setup = q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL);
	INSERT INTO job SELECT n, n % 2000, 1 FROM generate_series(1, 20000) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	SELECT jobstate.fold();
};
$node->safe_psql('postgres', $setup);
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), '', 'nothing is preloaded');

sub log_size
{
	my ($db) = @_;
	return $node->safe_psql($db,
		q{SELECT sum(pg_relation_size(format('jobstate.segment_%s', n)::regclass)) FROM generate_series(0, 7) n});
}

# Each transaction touches 2000 groups, 20 of them fill more than a segment.
my $fill = "UPDATE job SET state = 3 - state WHERE id <= 2000;\n" x 20;
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobstate maintain'};

# Off: it stays as it is.
$node->safe_psql('postgres', "SET jobstate.auto_maintain = off;\n$fill");
my $full = log_size('postgres');
cmp_ok($full, '>', 200 * 8192, 'the log is full');
sleep 1;
is(log_size('postgres'), $full, 'switched off, nothing is folded');
is($node->safe_psql('postgres', $workers), '0', 'and no worker is started');

# Writing goes on a little, because each session asks for a fold once in a second at most.
sub folded_soon
{
	my ($user) = @_;
	for (1 .. 5 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if log_size('postgres') < $full / 2;
		$node->safe_psql('postgres', 'UPDATE job SET state = 3 - state WHERE id <= 2000', extra_params => [ '--username', $user ]);
		select(undef, undef, undef, 0.2);
	}
	return 0;
}

# On, which it is by default: the next writer who finds it full has it folded.
$node->safe_psql('postgres', $fill);
ok(folded_soon(scalar getpwuid($>)), 'full segments are folded');
ok($node->poll_query_until('postgres', $workers, '0'), 'the worker goes away');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

# One worker stays for as long as segments become full, and empties them again and again; one that left after each fold would
# do so twice at most.  Who it is the lock tells that it holds.
my $look = q{SELECT (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 74 AND mode = 'ExclusiveLock' AND granted),
	sum(pg_relation_filenode(format('jobstate.segment_%s', n)::regclass)::bigint) FROM generate_series(0, 7) n;};
my $step = "UPDATE job SET state = 3 - state WHERE id <= 2000;\n" x 5 . "$look\n";
my %emptied;
for (1 .. 60)
{
	my ($before, $was) = ('', 0);
	for (split /\n/, $node->safe_psql('postgres', $step x 12))
	{
		my ($pid, $files) = split /\|/;
		$emptied{$pid}++ if $pid ne '' && $pid eq $before && $files != $was;
		($before, $was) = ($pid, $files);
	}
	last if grep { $_ > 2 } values %emptied;
}
ok(scalar(grep { $_ > 2 } values %emptied), 'a worker stays while there is something to do') or diag(join ' ', %emptied);
ok($node->poll_query_until('postgres', $workers, '0'), 'then it leaves');

# While one is there, whatever keeps it, no other one is started.  Terminated, it goes, and the next one takes over.
$node->safe_psql('postgres', q{
	CREATE FUNCTION jobstate.maintain_test(step int) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared(1);
		RETURN NULL;
	END $$;
	ALTER EXTENSION jobstate ADD FUNCTION jobstate.maintain_test(int);
	ALTER SYSTEM SET log_min_messages = debug1;
	SELECT pg_reload_conf()});
my $keeper = $node->background_psql('postgres', on_error_stop => 1);
$keeper->query_safe('SELECT pg_advisory_lock(1)');
$node->safe_psql('postgres', $fill);
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'jobstate maintain' AND wait_event = 'advisory'}),
	'a worker is kept');
ok($node->poll_query_until('postgres', $workers, '1'), 'it is alone');
my $from = -s $node->logfile;
$node->safe_psql('postgres', $fill) for 1 .. 3;
unlike(slurp_file($node->logfile, $from), qr/registering background worker/, 'and no other one is started');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobstate maintain'});
ok($node->poll_query_until('postgres', $workers, '0'), 'a worker can be terminated');
$keeper->query_safe('SELECT pg_advisory_unlock(1)');
$keeper->quit;
$node->safe_psql('postgres', $fill);
ok(folded_soon(scalar getpwuid($>)), 'full segments are folded again');
like(slurp_file($node->logfile, $from), qr/registering background worker "jobstate maintain"/, 'by another one');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET log_min_messages; SELECT pg_reload_conf()');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

# A worker can be seen at work: it is held up by a reader who keeps the log locked.
my $reader = $node->background_psql('postgres', on_error_stop => 1);
$reader->query_safe('BEGIN; LOCK TABLE jobstate.segment_0, jobstate.segment_1, jobstate.segment_2, jobstate.segment_3,
	jobstate.segment_4, jobstate.segment_5, jobstate.segment_6, jobstate.segment_7 IN ACCESS SHARE MODE');
$node->safe_psql('postgres', $fill);
# It gives up after a while, and the next writer has another one started.
my $seen = q{WITH writer AS (UPDATE job SET state = 3 - state WHERE id <= 2000)
	SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'jobstate maintain' AND datname = current_database()};
ok($node->poll_query_until('postgres', $seen), 'a worker shows in pg_stat_activity');
$reader->query_safe('COMMIT');
ok($node->poll_query_until('postgres', $workers, '0'), 'and is done once it may');

# A second database has a worker of its own, which is in nobody's way.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', $setup);
$reader->quit;
$reader = $node->background_psql('other', on_error_stop => 1);
$node->safe_psql('other', "$fill$fill");
$reader->quit;
# The server itself waits five seconds for others in the database; a worker that did not leave would stay for a minute.
my $dropped = 1;
for (1 .. 3)
{
	$dropped = $node->psql('postgres', 'DROP DATABASE other');
	last if $dropped == 0;
}
is($dropped, 0, 'a worker does not hold up DROP DATABASE');

# Nor DROP EXTENSION: who finds no extension leaves.
# A fold waits for none of the tables that it needs once it has locked the first, so nobody is told of a deadlock.
$dropped = $node->psql('postgres', "$fill DROP EXTENSION jobstate CASCADE;", on_error_stop => 1);
is($dropped, 0, 'a worker does not hold up DROP EXTENSION');
ok($node->poll_query_until('postgres', $workers, '0'), 'a worker without its extension leaves');
is($node->safe_psql('postgres', 'SELECT count(*) FROM job'), '20000', "and the user's table is whole");

# It runs for whoever writes, though he has no right on the log.
$node->safe_psql('postgres', "DROP TABLE job; $setup");
$node->safe_psql('postgres', q{CREATE ROLE regress_worker LOGIN; GRANT SELECT, UPDATE ON job TO regress_worker});
$node->safe_psql('postgres', $fill, extra_params => [ '--username', 'regress_worker' ]);
ok(folded_soon('regress_worker'), 'a plain worker role has it folded, too');
ok($node->poll_query_until('postgres', $workers, '0'), 'the worker goes away');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
unlike($log, qr/^.*\[\d+\] (jobstate maintain )?(ERROR|FATAL):(?!.*terminating).*$/m, 'the workers had no errors');

$node->stop;
done_testing();
