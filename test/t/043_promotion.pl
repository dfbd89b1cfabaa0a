
# A standby is promoted while workers are at work: what was acknowledged is there, each job
# completes once, the ring and the leases go on, and the old primary comes back behind it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = PostgreSQL::Test::Cluster->new('old');
$old->init(allows_streaming => 1);
$old->append_conf('postgresql.conf', "fsync = off\nfull_page_writes = on\nmax_prepared_transactions = 10\nwal_log_hints = on\nautovacuum = off\nwal_keep_size = 256MB");
$old->start;
$old->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('queue');
	SELECT jobstate.queue_ring_define('{"slots": 4, "slot_jobs": 200}');
	SELECT jobstate.queue_define('mail', '{"lease": "1 s", "max_attempts": 20, "shards": 2}');
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done}');
	CREATE TABLE wide (g int, state smallint);
	SELECT jobstate.attach('wide', 'phase', 'state', '{g}');
	CREATE TABLE done (id bigint, at timestamptz DEFAULT clock_timestamp())});
$old->backup('copy');
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init_from_backup($old, 'copy', has_streaming => 1);
$new->start;
$old->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()");

# What psql prints was acknowledged: "e" and the job that was enqueued, "c" and the one that was
# completed, together with the application's row.
my $script = "$PostgreSQL::Test::Utils::tmp_check/client.sql";
append_to_file($script, q{SELECT 'e', id FROM jobstate.enqueue('mail', 'k', shard_key => (random() * 9)::int::text);
SELECT 'e', id FROM jobstate.enqueue('mail', 'k', run_at => clock_timestamp() + interval '50 ms');
SELECT id, token FROM jobstate.claim('mail', 'w') \gset
BEGIN;
INSERT INTO done VALUES (:id);
SELECT CASE WHEN jobstate.complete(:id, :token) THEN 'c' END, :id;
COMMIT;
SELECT 'a', :id WHERE EXISTS (SELECT FROM done WHERE id = :id);
} x 3000);

sub clients
{
	my ($node, $n) = @_;
	my @clients;
	for my $i (1 .. $n)
	{
		my $said = '';
		my $complaint = '';
		push @clients, [ IPC::Run::start([ 'psql', '-XAtq', '-F', ' ', '-d', $node->connstr('postgres'), '-f', $script ],
			'>', \$said, '2>', \$complaint), \$said, \$complaint ];
	}
	return @clients;
}

# The jobs that were acknowledged as enqueued and as completed.
my (%enqueued, %completed);
sub finish
{
	for my $client (@_)
	{
		$client->[0]->finish;
		$enqueued{$_}++ for ${ $client->[1] } =~ /^e (\d+)$/mg;
		$completed{$_}++ for ${ $client->[1] } =~ /^a (\d+)$/mg;
		unlike(${ $client->[2] }, qr/40P01|deadlock|XX000|23505/, 'no error but those of losing the server');
	}
}

my @first = clients($old, 4);
$old->poll_query_until('postgres', q{SELECT count(*) > 100 FROM done}) or die;
$old->safe_psql('postgres', q{BEGIN; SELECT jobstate.enqueue('mail', 'prepared'); PREPARE TRANSACTION 'promoted'});
my $left_running = $old->safe_psql('postgres', q{SELECT id FROM jobstate.claim('mail', 'dead', 5)});
$old->stop('immediate');
finish(@first);
$new->promote;
cmp_ok(scalar keys %enqueued, '>', 100, 'jobs were acknowledged before');

sub check_acknowledged
{
	my ($when) = @_;
	my %there = map { $_ => 1 } split /\n/, $new->safe_psql('postgres', 'SELECT id FROM jobstate.job');
	my %rows = map { split /\|/ } split /\n/, $new->safe_psql('postgres', 'SELECT id, count(*) FROM done GROUP BY 1');
	is(scalar(grep { !$there{$_} && !$rows{$_} } keys %enqueued), 0, "every job that was acknowledged is there, or done: $when");
	is(scalar(grep { !$rows{$_} } keys %completed), 0, "every completion that was acknowledged is there: $when");
	is(scalar(grep { $_ != 1 } values %rows), 0, "no job was completed twice: $when");
	is($new->safe_psql('postgres', q{SELECT count(*) FROM done d WHERE EXISTS (SELECT FROM jobstate.job j WHERE j.id = d.id AND state_id <> 4)}),
		'0', "what is done is completed: $when");
	is($new->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "and the counts are right: $when");
}
check_acknowledged('promoted');
is($new->safe_psql('postgres', 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)'), '00000002', 'on a timeline of its own');
$new->safe_psql('postgres', "COMMIT PREPARED 'promoted'");

# it goes on: other synchronous_commit levels, the background worker, the ring's laps
$new->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = off');
my @second = clients($new, 3);
$new->safe_psql('postgres', 'INSERT INTO wide SELECT n, 1 FROM generate_series(1, 20000) n');
$new->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'jobstate maintain'})
  or die 'no background worker';
pass('the background worker runs on the new primary');
$new->poll_query_until('postgres', q{SELECT count(*) > 400 FROM done}) or die;
$_->[0]->signal('INT') for @second;
$new->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
finish(@second);
$new->safe_psql('postgres', 'ALTER DATABASE postgres RESET synchronous_commit');

# everything is brought to an end: leases of those who died are taken back
my $drain = q{
	WITH c AS MATERIALIZED (SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.claim('mail', 'end', 200))
	SELECT * FROM c};
$new->poll_query_until('postgres', q{SELECT jobstate.promote() IS NOT NULL AND count(*) = 0 FROM jobstate.rescue()}, 't') or die;
for (1 .. 200)
{
	my ($ids, $tokens) = split /\|/, $new->safe_psql('postgres', $drain);
	if (!$ids)
	{
		last if $new->safe_psql('postgres', 'SELECT count(*) FROM jobstate.job WHERE state_id IN (1, 2, 3)') == 0;
		$new->safe_psql('postgres', q{UPDATE jobstate.job SET lease_until = now() - interval '1 s' WHERE state_id = 2 AND worker <> 'end';
			SELECT jobstate.rescue(); UPDATE jobstate.job SET run_at = now() WHERE state_id = 3; SELECT jobstate.promote()});
		next;
	}
	$new->safe_psql('postgres', "BEGIN; INSERT INTO done SELECT unnest('$ids'::bigint[]); SELECT count(*) FROM jobstate.complete('$ids'::bigint[], '$tokens'::bigint[]); COMMIT");
}
is($new->safe_psql('postgres', 'SELECT count(*) FROM jobstate.job WHERE state_id IN (1, 2, 3)'), '0', 'every job was found and came to an end');
check_acknowledged('at the end');
is($new->safe_psql('postgres', q{SELECT count(*) FROM done WHERE id IN (} . join(',', split /\n/, $left_running) . ')'), scalar(split /\n/, $left_running),
	'also those whose worker went down with the old primary');
# more than the ring holds may have been done within its retention
$new->safe_psql('postgres', $_) for q{SELECT jobstate.queue_ring_define('{"retention": "0"}')}, 'CALL jobstate.maintain()';
is($new->safe_psql('postgres', q{SELECT check_name, object, detail FROM jobstate.health(deep => true, patience => '0')
	WHERE status = 'warning' AND check_name IN ('counters', 'triggers', 'queue ring')}), '', 'health() is content');

# the old primary comes back; until 16 pg_rewind learns of the new timeline from a checkpoint
$new->safe_psql('postgres', 'CHECKPOINT');
command_ok([ 'pg_rewind', '--target-pgdata', $old->data_dir, '--source-server', $new->connstr('postgres'), '--no-sync' ], 'the old primary is rewound');
$old->append_conf('postgresql.conf', 'port = ' . $old->port . "\nsynchronous_standby_names = ''\nprimary_conninfo = '" . $new->connstr . " application_name=old'");
unlink $old->data_dir . '/postgresql.auto.conf';
append_to_file($old->data_dir . '/postgresql.auto.conf', '');
$old->set_standby_mode;
$old->start;
$new->wait_for_catchup($old);
my $counts = 'SELECT queue, state, n FROM jobstate.queue_counts() ORDER BY 1, 2';
is($old->safe_psql('postgres', $counts), $new->safe_psql('postgres', $counts), 'and counts as the new one does');
is($old->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'rightly');
$_->stop for $old, $new;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 11|40P01/, $_->name . ' did not crash') for $old, $new;
done_testing();
