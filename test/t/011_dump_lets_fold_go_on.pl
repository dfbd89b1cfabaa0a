
# While pg_dump holds its locks and its snapshot, the fold goes on: the log is folded
# and its segments are truncated, again and again, and counts stay exact.
use strict;
use warnings;
use Fcntl;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njobstate.auto_maintain = off");
$node->append_conf('postgresql.conf', "lock_timeout = 10s");
$node->start;

# Enough to fill a pipe, so that a dump that nobody reads is in the midst of it.
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2}', '{ready -> done, done -> ready}');
	CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL);
	INSERT INTO job SELECT n, n % 8, 1 FROM generate_series(1, 1000) n;
	SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
	CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM generate_series(1, 2000);
});

sub log_size
{
	return $node->safe_psql('postgres',
		q{SELECT sum(pg_relation_size(format('jobstate.segment_%s', n)::regclass)) FROM generate_series(0, 7) n});
}

sub work
{
	$node->safe_psql('postgres', q{
		UPDATE job SET state = 3 - state WHERE id <= 10;
		UPDATE job SET state = 3 - state WHERE id > 990;
		INSERT INTO job SELECT max(id) + 1, 1, 1 FROM job;});
}

my $fifo = "$PostgreSQL::Test::Utils::tmp_check/dump.fifo";
unlink $fifo;
mkfifo($fifo, 0600) or die "could not make a pipe: $!";

for my $format (qw(plain custom))
{
	sysopen(my $end, $fifo, O_RDONLY | O_NONBLOCK) or die "could not open the pipe: $!";
	my ($out, $err) = ('', '');
	my $dump = IPC::Run::start(
		[ 'pg_dump', '--format', $format, '-Z', '0', '--no-sync', '-f', $fifo, '-d', $node->connstr('postgres') ],
		'<', '/dev/null', '>', \$out, '2>', \$err);
	ok( $node->poll_query_until('postgres', q{
			SELECT count(*) = 1 FROM pg_stat_activity
			 WHERE query LIKE 'COPY public.bulk%' AND wait_event = 'ClientWrite'}),
		"a $format dump is at work");
	is( $node->safe_psql('postgres', q{
			SELECT string_agg(DISTINCT relation::regclass::text, ' ') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			 WHERE query LIKE 'COPY public.bulk%' AND relation::regclass::text ~ '^jobstate.(segment|base)'}),
		'', "$format: it holds no lock on the log");

	for my $round (1 .. 3)
	{
		work();
		cmp_ok(log_size(), '>', 0, "$format: there is something to fold, round $round");
		cmp_ok($node->safe_psql('postgres', 'SELECT jobstate.fold()'), '>', 0, "$format: it is folded");
		is(log_size(), 0, "$format: and truncated");
		is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', "$format: the counts are right");
	}
	# other things that others may want meanwhile
	$node->safe_psql('postgres', q{SELECT jobstate.rebuild('job'); CALL jobstate.maintain()});

	fcntl($end, F_SETFL, 0);
	while (sysread($end, my $bytes, 1 << 20)) { }
	$dump->finish;
	is($dump->result(0), 0, "$format: the dump is whole");
	is($err, '', "$format: and has nothing to complain of");
	close $end;
}

$node->stop;
done_testing();
