
# Clients at all three isolation levels move rows of the same hot groups about, each its
# own rows, several per transaction and in any order. The bare table lets all of that
# through; so nobody may fail, wait long or deadlock, and the counts are right.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
log_statement = none
deadlock_timeout = 50ms
max_prepared_transactions = 20
max_pred_locks_per_page = 1000
max_pred_locks_per_relation = 1000
max_pred_locks_per_transaction = 1000
enable_seqscan = off
});
$node->start;

# Client c owns the rows with ids c * 1000 to c * 1000 + 999, in partitions of their own:
# so no two clients meet on a page of an index either, where SERIALIZABLE would see a
# conflict that is none. Groups are everybody's.
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "running": 2, "done": 3}',
		'{ready -> running, running -> done, running -> ready, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int NOT NULL, state smallint NOT NULL) PARTITION BY RANGE (id);
	CREATE TABLE part (id int PRIMARY KEY, queue text, state text NOT NULL) PARTITION BY RANGE (id);
	DO $$
	BEGIN
		FOR c IN 0 .. 11 LOOP
			EXECUTE format('CREATE TABLE job_%s PARTITION OF job FOR VALUES FROM (%s) TO (%s)', c, c * 1000, c * 1000 + 1000);
			EXECUTE format('CREATE TABLE part_%s PARTITION OF part FOR VALUES FROM (%s) TO (%s)', c, c * 1000, c * 1000 + 1000);
		END LOOP;
	END $$;
	INSERT INTO job SELECT n, n % 4, 1 FROM generate_series(0, 11999) n;
	INSERT INTO part SELECT n, 'q' || n % 2, 'ready' FROM generate_series(0, 11999) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	SELECT jobstate.attach('part', 'phase', 'state', '{queue}');
	VACUUM ANALYZE;
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

my $own = join '', map { "\\set $_ :client * 1000 + random(0, 999)\n" } qw(a b c);
my $next = 'CASE state WHEN 1 THEN 2 WHEN 2 THEN 3 ELSE 1 END';
my $word = q{CASE state WHEN 'ready' THEN 'running' WHEN 'running' THEN 'done' ELSE 'ready' END};
my %sql = (
	one => "UPDATE job SET state = $next WHERE id = :a;",
	three => "BEGIN;
		UPDATE job SET state = $next WHERE id = :a;
		UPDATE part SET state = $word WHERE id = :b;
		SAVEPOINT s;
		UPDATE job SET state = $next, queue = (queue + 1) % 4 WHERE id = :c;
		SAVEPOINT t;
		UPDATE job SET state = $next WHERE id = :c;
		RELEASE t;
		ROLLBACK TO s;
		UPDATE job SET state = $next WHERE id = :b;
		COMMIT;",
	otherwise => "BEGIN;
		UPDATE part SET state = $word WHERE id = :c;
		UPDATE job SET queue = (queue + 1) % 4 WHERE id = :b;
		DELETE FROM job WHERE id = :a;
		INSERT INTO job VALUES (:a, :a % 4, 1);
		COMMIT;",
	two_phase => "BEGIN;
		UPDATE job SET state = $next WHERE id = :a;
		UPDATE part SET state = $word WHERE id = :a;
		PREPARE TRANSACTION 'client_:client';
		COMMIT PREPARED 'client_:client';",
	verbs => "SELECT count(*) FROM jobstate.transition('job', ARRAY[:a, :b, :c], 'running');
		SELECT count(*) FROM jobstate.transition('part', ARRAY[:c, :a], 'ready');",
	reader => "SELECT sum(n) FROM jobstate.counts('job');
		SELECT n FROM jobstate.counts('part', '{\"queue\": \"q1\"}');");

# What looks at more than its own rows would fail under SERIALIZABLE on the bare table,
# too: verbs, planned for any ids, and readers whom a fold has overtaken.
my %without = ('serializable' => qr/verbs|reader/);

# Four clients per level, all at once, and somebody who folds all the time.
my %run;
my $first = 0;
for my $level ('read committed', 'repeatable read', 'serializable')
{
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=' . ($level =~ s/ /\\ /r);
	my @names = grep { !$without{$level} || !/$without{$level}/ } sort keys %sql;
	my @files = map { ('-f', script("$_\_$first", "\\set client $first + :client_id\n$own$sql{$_}\n")) } @names;
	my ($out, $err) = ('', '');
	$run{$level} = { out => \$out, err => \$err };
	$run{$level}{process} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 4, '-j', 1, '-t', 250, '--failures-detailed', @files, $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);
	$first += 4;
}
while (grep { $_->{process}->pumpable } values %run)
{
	$_->{process}->pump_nb for grep { $_->{process}->pumpable } values %run;
	$node->safe_psql('postgres', 'SELECT jobstate.fold(); CALL jobstate.maintain()');
	is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right meanwhile');
}
for my $level (sort keys %run)
{
	$run{$level}{process}->finish;
	is($run{$level}{process}->result(0), 0, "$level: no client gave up") or diag(${ $run{$level}{err} });
	like(${ $run{$level}{out} }, qr/number of failed transactions: 0 /, "$level: no transaction failed");
	like(${ $run{$level}{out} }, qr/number of transactions actually processed: 1000\//, "$level: all of them");
	note(${ $run{$level}{out} });
}

is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right at the end');
is($node->safe_psql('postgres', q{SELECT sum(n) FROM jobstate.counts('job')}), '12000', 'and complete');
my $log = slurp_file($node->logfile);
unlike($log, qr/deadlock detected/, 'no deadlock');
unlike($log, qr/could not serialize/, 'no serialization failure');
unlike($log, qr/ERROR/, 'no error at all');
unlike($log, qr/PANIC|TRAP|signal 11/, 'no crash');

$node->stop;
done_testing();
