
# The run lock: free at once when its holder is gone, by each of the three holds, and
# never held by two, however many try; every run is in the records.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
jobstate.auto_maintain = off
deadlock_timeout = 200ms
log_lock_waits = on
log_statement = none
max_connections = 50
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('ledger'), jobstate.install('schedule');
	SELECT jobstate.ledger_define('usage', '{"cap": null}'), jobstate.ledger_define('verification');
});

# A session that stays open: what it prints comes back.
sub session
{
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	$psql->{pid} = $psql->query_safe('SELECT pg_backend_pid()') + 0;
	return $psql;
}

sub kill_session
{
	my $psql = shift;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($psql->{pid}, 180000)");
	eval { $psql->quit };
}

# true, or why not
sub begin_run
{
	my ($processor, $hold) = @_;
	my ($ret, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\nSELECT token FROM jobstate.ledger_begin_run('$processor', 'b', hold => '$hold')");
	return $ret == 0 ? 't' : $err;
}

sub forget
{
	$node->safe_psql('postgres', q{
		UPDATE jobstate.ledger_processor SET run_until = '2020-01-01' WHERE run_id IS NOT NULL;
		SELECT FROM jobstate.ledger_rescue()});
}

# D.5 scenario 10
{
	my $a = session();
	$a->query_safe(q{BEGIN});
	$a->query_safe(q{SELECT FROM jobstate.ledger_begin_run('usage', 'a')});
	my $refused = begin_run('usage', 'lease');    # would wait for ever if it did wait
	like($refused, qr/ERROR:  55P03: processor "usage" is already running/, 'and refused');
	like($refused, qr/DETAIL:  Backend $a->{pid} \(\S+\) has it in a transaction that is open since \d{4}-/, 'with who is at it and since when');
	is(begin_run('verification', 'lease'), 't', 'another processor is free');
	kill_session($a);
	is(begin_run('usage', 'lease'), 't', 'a transaction whose backend is killed holds nothing');
	like(begin_run('usage', 'lease'), qr/DETAIL:  Run \d+ of "b", backend \d+, holds it since .*, by its lease, until /,
		'a lease outlives its session, and says whose it is');
	forget();
}
{
	my $a = session();
	$a->query_safe(q{SELECT FROM jobstate.ledger_begin_run('usage', 'session', '1 day', 'session')});
	like(begin_run('usage', 'session'), qr/55P03/, 'held by a session that is there');
	# A transaction that has looked before sees, nevertheless, that the session is gone.
	my $c = session();
	$c->query_safe('BEGIN');
	$c->query_safe('SELECT count(*) FROM pg_stat_activity');
	kill_session($a);
	is($c->query_safe(q{SELECT count(*) FROM jobstate.ledger_begin_run('usage', 'c', hold => 'session')}), '1',
		'free at once when the backend is gone, a day before the lease ends');
	$c->query_safe('ROLLBACK');
	$c->quit;
	is(begin_run('usage', 'session'), 't', 'for whoever asks');
	is($node->safe_psql('postgres', q{SELECT state FROM jobstate.ledger_run WHERE owner = 'session'}), 'lost', 'and it is in the records');
	forget();
}
{
	my $a = session();
	$a->query_safe(q{SELECT token FROM jobstate.ledger_begin_run('usage', 'transaction', hold => 'transaction') \gset});
	$a->query_safe(q{BEGIN});
	$a->query_safe(q{SELECT jobstate.ledger_hold_run('usage', :'token')});
	$a->query_safe(q{SELECT jobstate.ledger_mark('usage', 'x', token => :'token')});
	like(begin_run('usage', 'lease'), qr/55P03.*Run \d+ of "transaction"/s, 'held by a transaction that is open');
	kill_session($a);
	is(begin_run('usage', 'lease'), 't', 'and free at once when it is over');
	is($node->safe_psql('postgres', q{SELECT state, processed FROM jobstate.ledger_run WHERE owner = 'transaction'}), 'lost|0',
		'in the records, without what was rolled back');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.ledger WHERE item = 'x'}), '0', 'and nothing is marked');
	forget();
}

# Another role does not see when a backend started, but sees that it is gone.
$node->safe_psql('postgres', q{
	CREATE ROLE one LOGIN; CREATE ROLE two LOGIN;
	SELECT jobstate.ledger_grant('one'), jobstate.ledger_grant('two'), jobstate.schedule_grant('one'), jobstate.schedule_grant('two')});
{
	my $a = session();
	$a->query_safe(q{SET ROLE one});
	$a->query_safe(q{SELECT FROM jobstate.ledger_begin_run('usage', 'one', hold => 'session')});
	my $as_two = q{SET ROLE two; SELECT count(*) FROM jobstate.ledger_begin_run('usage', 'two', hold => 'session')};
	my ($ret, $out, $err) = $node->psql('postgres', $as_two);
	like($err, qr/already running/, 'another role is refused');
	kill_session($a);
	is($node->safe_psql('postgres', $as_two), '1', 'and free when the backend is gone');
	forget();
}

# D.5 scenario 17: a session that took a schedule and died leaves the slot free, and no hot loop
{
	$node->safe_psql('postgres', q{SELECT jobstate.schedule_define('tick', 'every 1h')});
	my $a = session();
	is($a->query_safe(q{SELECT count(*) FROM jobstate.schedule_due('a', hold => 'session')}), '1', 'a schedule is taken');
	$node->safe_psql('postgres', q{UPDATE jobstate.schedule SET last_run = '2020-01-01'});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.schedule_due('b')}), '0', 'in flight, it is not started again');
	kill_session($a);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.schedule_due('b')}), '1', 'its session gone, it is free without clean-up');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.schedule_due('b')}), '0', 'and has run by that');
}

# After a crash nobody holds anything by session.
{
	my $a = session();
	$a->query_safe(q{SELECT FROM jobstate.ledger_begin_run('usage', 'crash', '1 day', 'session')});
	$node->stop('immediate');
	$node->start;
	eval { $a->quit };
	is(begin_run('usage', 'session'), 't', 'free after a crash');
	is($node->safe_psql('postgres', q{SELECT state FROM jobstate.ledger_run WHERE owner = 'crash'}), 'lost', 'and in the records');
	forget();
}

# Many at once, hundreds of rounds: never two runs of one processor at the same time.
# Who has the run has a lock of its session as well, which nobody else may have.  Some
# die with both.
$node->safe_psql('postgres', q{
	CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, alone boolean NOT NULL);
	CREATE FUNCTION attempt(OUT token uuid) LANGUAGE plpgsql AS $$
	BEGIN
		SELECT b.token INTO token FROM jobstate.ledger_begin_run('usage', 'race', '1 hour', 'session') b;
	EXCEPTION WHEN lock_not_available THEN
		token := NULL;
	END $$;
	CREATE FUNCTION enter(token uuid) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF token IS NOT NULL THEN
			INSERT INTO seen (alone) VALUES (pg_try_advisory_lock(7));
			PERFORM pg_sleep(random() * 0.002);
		END IF;
	END $$;
	CREATE FUNCTION leave(token uuid) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF token IS NOT NULL THEN
			PERFORM jobstate.ledger_mark('usage', 'item ' || n, items => 1, token => token) FROM generate_series(1, 2) n;
			PERFORM pg_advisory_unlock_all();
			PERFORM jobstate.ledger_end_run('usage', token);
		END IF;
	END $$});
sub script
{
	my ($name, $sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	open my $handle, '>', $file or die;
	print $handle $sql;
	close $handle;
	return $file;
}
my $attempt = "SELECT coalesce(token::text, '') AS token FROM attempt() \\gset\nSELECT enter(nullif(':token', '')::uuid);\n";
my $run = script('run', $attempt . "SELECT leave(nullif(':token', '')::uuid);\n");
my $die = script('die', $attempt);
for my $isolation ('read\\ committed', 'repeatable\\ read', 'serializable')
{
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=$isolation";
	$node->command_ok(
		[ 'pgbench', '-n', '-C', '-c', 4, '-j', 2, '-t', 20, '--max-tries', 1000, '-f', "$run\@2", '-f', $die, $node->connstr('postgres') ],
		"$isolation: four of whom a third die");
	$node->command_ok(
		[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 50, '--max-tries', 1000, '-f', $run, $node->connstr('postgres') ],
		"$isolation: eight who stay");
	forget();
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM seen WHERE NOT alone'), '0', 'never two at the same time');
my $runs = $node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.ledger_run WHERE owner = 'race'});
cmp_ok($runs, '>', 90, "$runs runs");
is($node->safe_psql('postgres', q{
	SELECT count(*) FILTER (WHERE state = 'succeeded' AND (processed, items_extracted) <> (2, 2)),
	       count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'running'),
	       count(*) FILTER (WHERE state = 'lost') > 5
	  FROM jobstate.ledger_run WHERE owner = 'race'}), '0|0|0|t', 'each is in the records, with its figures, also those that died');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');
is($node->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('jobstate.ledger_run')}),
	$node->safe_psql('postgres', 'SELECT count(*) FROM jobstate.ledger_run'), 'of runs as well');

$node->stop;
done_testing();
