
# Killed at any instant, the server comes back with counts that are those of the rows:
# under load, in the midst of folds, with transactions that are prepared.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
max_prepared_transactions = 20
wal_level = minimal
max_wal_senders = 0
restart_after_crash = on
checkpoint_timeout = 30s
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id serial PRIMARY KEY, queue int, state smallint NOT NULL);
	INSERT INTO job (queue, state) SELECT n % 500, 1 FROM generate_series(1, 5000) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	CREATE TABLE task (id serial PRIMARY KEY, state text NOT NULL);
	SELECT jobstate.attach('task', 'phase', 'state');
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

# Many groups at once fill the log fast, so that folds and the moving on to the base's
# next stage are among what is cut short.
my @load = (
	script('many', 'UPDATE job SET state = 3 - state WHERE id BETWEEN :client_id * 600 + 1 AND :client_id * 600 + 500;'),
	script('few', "BEGIN; INSERT INTO job (queue, state) VALUES (random() * 500, 1); SAVEPOINT s;\n"
		  . "INSERT INTO task (state) VALUES ('ready'); ROLLBACK TO s; INSERT INTO task (state) VALUES ('done'); COMMIT;"),
	script('fold', 'CALL jobstate.maintain(); SELECT jobstate.fold();'),
	script('grow', 'INSERT INTO job (queue, state) SELECT 1000 + :client_id * 100000 + n, 1 FROM generate_series(1, 2000) n; DELETE FROM job WHERE queue >= 1000 + :client_id * 100000 AND queue < 200000 + :client_id * 100000 AND random() < 0.7;'),
	script('empty', "BEGIN; TRUNCATE task; INSERT INTO task (state) SELECT 'ready' FROM generate_series(1, 5); COMMIT;\n\\sleep 100 ms"),
	script('rebuild', "SELECT jobstate.rebuild('job');\n\\sleep 300 ms"));

my @weight = (4, 20, 3, 2, 1, 1);

sub verify_clean
{
	my ($what) = @_;
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "counts are right: $what");
	is($node->safe_psql('postgres', 'SELECT bool_and(counted) FROM jobstate.attachments'), 't', "and counted: $what");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM (
			SELECT queue, state, count(*) FROM job GROUP BY 1, 2
			EXCEPT SELECT (group_key ->> 'queue')::int, CASE state WHEN 'ready' THEN 1 ELSE 2 END, n FROM jobstate.counts('job')) d}),
		'0', "as a recount by hand says: $what");
}

sub prepare
{
	my ($name, $sql) = @_;
	$node->safe_psql('postgres', "BEGIN; $sql; PREPARE TRANSACTION '$name'");
}

my $busy = q{FROM pg_stat_activity
	 WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()};

# The postmaster goes, gently or not, or one of its backends takes all others along.
sub crash
{
	my ($how) = @_;
	return $node->stop('immediate') if $how eq 'immediate';
	if ($how eq 'backend')
	{
		my $pid = '';
		$pid = $node->safe_psql('postgres', "SELECT pid $busy LIMIT 1") while $pid eq '';
		return kill('KILL', $pid);
	}

	# orphans keep the memory until they notice
	my @pids = split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	$node->kill9;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last unless kill(0, @pids);
		select(undef, undef, undef, 0.1);
	}
}

my $n = 0;
for my $how (qw(immediate kill9 backend))
{
	$n++;
	my ($out, $err) = ('', '');
	prepare("kept_$n", "INSERT INTO job (queue, state) SELECT 7, 1 FROM generate_series(1, 10)");
	prepare("dropped_$n", "INSERT INTO job (queue, state) SELECT 8, 2 FROM generate_series(1, 10)");
	my $bench = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 6, '-j', 2, '-T', 60, (map { ('-f', "$load[$_]\@$weight[$_]") } 0 .. $#load), $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);
	ok($node->poll_query_until('postgres', "SELECT count(*) > 2 $busy"), "round $n: the load is on");
	select(undef, undef, undef, 1.0 + $n * 0.3);
	crash($how);
	$bench->finish;
	like($err, qr/died|connection|terminat/, "round $n: the server was lost under load");

	$how eq 'backend' ? $node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') : $node->start;
	verify_clean("round $n, after $how");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '2', "round $n: what was prepared is there");
	my $before = $node->safe_psql('postgres', q{SELECT n FROM jobstate.counts('job', '{"queue": 7}') WHERE state = 'ready'});
	$node->safe_psql('postgres', 'SELECT jobstate.fold()');
	$node->safe_psql('postgres', "COMMIT PREPARED 'kept_$n'");
	$node->safe_psql('postgres', "ROLLBACK PREPARED 'dropped_$n'");
	is( $node->safe_psql('postgres', q{SELECT n FROM jobstate.counts('job', '{"queue": 7}') WHERE state = 'ready'}),
		$before + 10, "round $n: and counts once it is committed");
	$node->safe_psql('postgres', 'SELECT jobstate.fold(); CALL jobstate.maintain()');
	verify_clean("round $n, at work again");
}

# an ordinary restart keeps all of it
$node->restart;
verify_clean('after a restart');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11|40P01|deadlock detected/, 'nothing else went wrong');

$node->stop;
done_testing();
