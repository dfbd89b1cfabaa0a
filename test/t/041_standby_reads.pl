
# On a hot standby counts, totals and verify can be read, while the primary writes and
# folds; a standby that is promoted counts on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 10");
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

# what writes is refused there
for my $write ('SELECT jobstate.fold()', 'CALL jobstate.maintain()', q{SELECT jobstate.rebuild('job')},
	q{SELECT jobstate.take('job', 'ready', 'done')}, q{SELECT jobstate.define_machine('x', '{"a": 1}', '{}')})
{
	my ($ret, $out, $err) = $standby->psql('postgres', $write);
	like($err, qr/ERROR:  .*(read-only transaction|recovery)/, "refused on the standby: $write");
}

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
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 11/, $_->name . ' did not crash') for $primary, $standby;

done_testing();
