
# What health() says of other sessions, of slots, of workers that cannot start, and on a
# standby; and that what it gives as a fix, executed as it stands, mends it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', 'fsync = off');
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL);
	INSERT INTO job SELECT n, n % 7, 1 FROM generate_series(1, 100) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	CREATE ROLE nobody LOGIN;
	GRANT SELECT ON job TO nobody;
});

# The rows whose object looks like this: status, check, object, detail.  Patience 0: what is there counts.
sub found
{
	my ($node, $object, %how) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT status, check_name, object, detail FROM jobstate.health(patience => '0')
		 WHERE object ~ '$object' ORDER BY check_name}, %how);
}

sub mend
{
	my ($node, $object) = @_;
	my $fix = $node->safe_psql('postgres',
		qq{SELECT DISTINCT fix FROM jobstate.health(patience => '0') WHERE object ~ '$object' AND status <> 'ok'});
	isnt($fix, '', "there is a fix for $object");
	$node->safe_psql('postgres', $fix);
	ok($node->poll_query_until('postgres', qq{SELECT count(*) = 0 FROM jobstate.health(patience => '0') WHERE object ~ '$object'}),
		"which mends it: $fix");
}

sub session
{
	my ($node, @statements) = @_;
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $psql->query_safe('SELECT pg_backend_pid()');
	$psql->query_safe($_) for @statements;
	return ($psql, $pid);
}

# a snapshot that somebody holds
my $user = $primary->safe_psql('postgres', 'SELECT current_user');
my ($reporter, $pid) = session($primary, q{SET application_name = 'monthly report'}, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
$primary->safe_psql('postgres', 'UPDATE job SET state = 2 WHERE id = 1') for 1 .. 3;
like(found($primary, "session $pid "),
	qr/^warning\|snapshots\|session $pid of \Q$user\E\|keeps dead rows from being removed for \d+ transactions, since \S+ \S+, application "monthly report", idle in transaction$/,
	'a held snapshot, and whose it is');
is($primary->safe_psql('postgres', qq{SELECT status FROM jobstate.health() WHERE object ~ 'session $pid '}), '', 'it is no fault while it is young');
cmp_ok($primary->safe_psql('postgres', q{SELECT value FROM jobstate.metrics WHERE name = 'jobstate_oldest_snapshot_transactions'}), '>=', 3,
	'metrics tell how many transactions behind');
is(found($primary, "session $pid ", extra_params => [ '--username', 'nobody' ]), '', 'who is not shown since when it runs is not told of it');
mend($primary, "session $pid ");
$reporter->{run}->finish;

# a replication slot that nobody uses
$primary->safe_psql('postgres', q{SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')});
like(found($primary, 'forgotten'),
	qr/^warning\|snapshots\|replication slot 'forgotten'\|keeps dead rows from being removed for \d+ transactions,( since \S+ \S+,)? nobody uses it$/, 'an unused slot');
mend($primary, 'forgotten');

# a fold that does not end keeps readers of counts, but not health()
my ($folder, $folding) = session($primary, 'BEGIN', 'SELECT jobstate.fold()');
my $began = time;
like(found($primary, "session $folding "),
	qr/^warning\|unfolded\|session $folding of \Q$user\E\|holds jobstate\.\w+ against everybody: who asks for counts waits$/m, 'an open fold');
like(found($primary, 'health_counters'), qr/^warning\|health\|health_counters\|could not look: .*lock timeout/, 'and what cannot be looked at meanwhile');
like($primary->safe_psql('postgres', q{SELECT labels ->> 'part' FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value = 1}),
	qr/tables/, 'metrics tell which part failed');
is($primary->safe_psql('postgres', q{SELECT count(*) > 0 FROM jobstate.log_tables() WHERE bytes IS NULL}), 't', 'the log is not waited for');
cmp_ok(time - $began, '<', 120, 'nobody waits for the end of it');
mend($primary, "session $folding ");
is(found($primary, 'health_counters'), '', 'now all can be looked at');
$folder->{run}->finish;

# a transaction that goes on after it has filled a segment
$primary->safe_psql('postgres', q{
	CREATE TABLE large (id int PRIMARY KEY, state smallint NOT NULL);
	INSERT INTO large SELECT n, 1 FROM generate_series(1, 12000) n});
my ($holder, $holding) = session($primary, 'BEGIN', q{SELECT jobstate.attach('large', 'phase', 'state', '{id}')});
like(found($primary, "session $holding "),
	qr/^warning\|unfolded\|session $holding of \Q$user\E\|holds jobstate\.segment_\d, which is full and cannot be folded meanwhile$/m, 'a held segment');
mend($primary, "session $holding ");
$holder->{run}->finish;
$primary->safe_psql('postgres', 'CALL jobstate.maintain()');

# a worker that is not to start
$primary->safe_psql('postgres', 'ALTER DATABASE postgres SET jobstate.auto_maintain = off');
like(found($primary, 'auto_maintain'), qr/^info\|maintenance\|jobstate.auto_maintain\|no worker starts by itself/, 'switched off');
mend($primary, 'auto_maintain');

# one that cannot: the only place is taken, or there is none
$primary->append_conf('postgresql.conf', 'max_worker_processes = 1');
$primary->restart;
$primary->safe_psql('postgres', q{SELECT jobstate.attach('large', 'phase', 'state', '{id}')});
$primary->safe_psql('postgres', 'UPDATE job SET state = 3 - state WHERE id = 2');
like(found($primary, 'max_worker_processes'), qr/^warning\|maintenance\|max_worker_processes\|a worker is wanted and does not come: there is room for 1,/,
	'no place is free');
mend($primary, 'max_worker_processes');
$primary->append_conf('postgresql.conf', 'max_worker_processes = 0');
$primary->restart;
like(found($primary, 'max_worker_processes'), qr/^warning\|maintenance\|max_worker_processes\|there is room for no worker/, 'there is no place');
$primary->safe_psql('postgres', $primary->safe_psql('postgres', q{SELECT fix FROM jobstate.health() WHERE object = 'max_worker_processes'}));
$primary->restart;
is(found($primary, 'max_worker_processes'), '', 'now there is');

# on a standby
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1");
$standby->start;
$primary->safe_psql('postgres', q{SELECT jobstate.uncount('job'); SELECT jobstate.install('queue'); SELECT jobstate.install('uploads');
	SELECT jobstate.enqueue('mail', 'welcome', '{}')});
$primary->wait_for_catchup($standby);
# a worker, if one was started, has nothing left to fold
$primary->safe_psql('postgres', 'SELECT jobstate.fold()') for 1 .. 2;
$primary->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'jobstate maintain'}) or die 'the worker stays';
$primary->wait_for_catchup($standby);
my $faults = q{SELECT check_name, object, status, fix FROM jobstate.health(deep => true) WHERE status <> 'ok'};
is($standby->safe_psql('postgres', $faults), "counters|public.job|warning|SELECT jobstate.recount('public.job')", 'the standby says what the primary says');
is($primary->safe_psql('postgres', $faults), $standby->safe_psql('postgres', $faults), 'indeed');
is($standby->safe_psql('postgres', q{SELECT detail FROM jobstate.health() WHERE check_name = 'maintenance'}),
	'this is a standby; its primary folds', 'and who folds');
my $numbers = q{SELECT name, labels, value FROM jobstate.metrics WHERE name ~ '_(rows|counted|watched|rolled_up_total|failed|slots|used|free|available|dead_letters)$' ORDER BY 1, 2};
is($standby->safe_psql('postgres', $numbers), $primary->safe_psql('postgres', $numbers), 'and its metrics are those of the primary');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0}), '0', 'of which none fails');
my ($distant, $there) = session($standby, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
$primary->safe_psql('postgres', 'UPDATE job SET state = 3 - state WHERE id = 3');
like(found($standby, "session $there "), qr/^warning\|snapshots\|session $there /, 'a session of the standby, seen there');
ok($primary->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'walsender' AND backend_xmin IS NOT NULL}),
	'its snapshot reaches the primary');
mend($standby, "session $there ");
$distant->{run}->finish;
$standby->stop;
$primary->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 11/, $_->name . ' did not crash') for $primary, $standby;

done_testing();
