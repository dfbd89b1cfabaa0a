
# No writer waits because of counting: not for a fold that somebody has left open, not
# for whoever else holds most of the log locked, not for other writers of the group.
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
max_prepared_transactions = 10
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL);
	INSERT INTO job SELECT n, n % 4, 1 FROM generate_series(1, 1000) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
});

# Several sessions each, because backends do not all begin with the same segment. A
# flush is not covered by statement_timeout, a wait for a lock in it is by lock_timeout.
# Who waits here waits for ever, so the timeouts need not be short.
my $write = q{
	SET statement_timeout = '60s';
	SET lock_timeout = '60s';
	UPDATE job SET state = 3 - state WHERE id = 1;
	BEGIN;
	INSERT INTO job SELECT max(id) + 1, 2, 1 FROM job;
	SAVEPOINT s;
	DELETE FROM job WHERE id = 2;
	ROLLBACK TO s;
	COMMIT;
};

sub writers_pass
{
	my ($what) = @_;
	my @failed = grep { $node->psql('postgres', $write, on_error_stop => 1) != 0 } 1 .. 8;
	is(scalar(@failed), 0, "writers pass: $what");
}

sub verify_clean
{
	my ($what) = @_;
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "counts are right: $what");
}

my $other = $node->background_psql('postgres', on_error_stop => 1);

writers_pass('nobody about');
$other->query_safe('BEGIN; SELECT jobstate.fold()');
writers_pass('an open fold');
$other->query_safe('SELECT jobstate.fold()');
writers_pass('a fold that is open and has folded twice');
$other->query_safe('ROLLBACK');
verify_clean('after an aborted fold');

writers_pass('the log filled again');
$other->query_safe('BEGIN; SELECT jobstate.fold()');
writers_pass('an open fold, again');
$other->query_safe('COMMIT');
verify_clean('after an open fold that committed');

# two more that fold at the same time: one does, the others leave at once
$other->query_safe('BEGIN; SELECT jobstate.fold()');
is($node->safe_psql('postgres', q{SET statement_timeout = '60s'; SELECT jobstate.fold()}),
	'0', 'a second fold does not wait for the first');
$other->query_safe('COMMIT');

for my $held ([ 0, 2, 4, 6 ], [ 1, 3, 5, 7 ], [ 0 .. 6 ], [ 1 .. 7 ])
{
	my $list = join ', ', map { "jobstate.segment_$_" } @$held;
	$other->query_safe("BEGIN; LOCK TABLE $list IN ACCESS EXCLUSIVE MODE");
	writers_pass("locked are segments @$held");
	$other->query_safe('COMMIT');
}
verify_clean('after locks on segments');

# writers of one group that have not committed, in the most careful isolation level
$other->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE job SET state = 3 - state WHERE id = 5');
writers_pass('an open writer of the same group');
$other->query_safe("PREPARE TRANSACTION 'waits'");
writers_pass('a prepared writer of the same group');
is($node->safe_psql('postgres', q{SET statement_timeout = '60s'; SELECT jobstate.fold() > 0}),
	't', 'a fold passes over the prepared one');
$other->query_safe("COMMIT PREPARED 'waits'");

# readers: of the counts, of all the log
$other->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobstate.counts('job')});
writers_pass('an open reader of counts');
is($node->safe_psql('postgres', q{SET statement_timeout = '60s'; SELECT jobstate.fold() > 0}),
	't', 'nor does an open transaction that has read counts stop the fold');
$other->query_safe('COMMIT; BEGIN; SELECT * FROM jobstate.verify(); SELECT count(*) FROM jobstate.segment_0');
writers_pass('an open reader of a segment');
$other->query_safe('COMMIT');
verify_clean('at the end');

$other->quit;
$node->stop;
done_testing();
