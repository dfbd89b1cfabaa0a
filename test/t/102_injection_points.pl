# At each injection point of the extension (docs/architecture.md) an operation fails, waits while others write on,
# is cancelled, is terminated, and dies with kill -9. After each the counts are those of the rows, parents are
# what their children say, and nothing is locked or prepared.
use strict;
use warnings;
use lib 'test/perl';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Instants;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
max_prepared_transactions = 10
autovacuum = off
log_statement = none
restart_after_crash = on
jobstate.auto_maintain = off
});
$node->start;

sub value
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

if (value(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'injection_points'}) == 0)
{
	$node->stop;
	plan skip_all => 'the server was not built with injection points';
}
value(make_tables() . q{
	CREATE EXTENSION injection_points;
	CREATE TABLE many (id int, state smallint NOT NULL);
	SELECT jobstate.attach('many', 'phase', 'state', '{id}');
	INSERT INTO many SELECT n, 1 FROM generate_series(1, 24000) n;
	SELECT jobstate.fold();
	DELETE FROM many;
	SELECT jobstate.fold();
});

my %operation = operations();
$operation{settle} = [ '', 'CALL jobstate.maintain();' ];
my @points = (
	[ 'flush-begin', 'write' ], [ 'append-locked', 'write' ], [ 'flush-end', 'write' ], [ 'flush-end', 'prepare' ],
	[ 'fold-locked', 'fold' ], [ 'fold-written', 'fold' ], [ 'fold-end', 'fold' ], [ 'settle-written', 'settle' ],
	[ 'derive-locked', 'derive' ], [ 'derive-written', 'derive' ], [ 'prune-deleted', 'prune' ],
	[ 'prune-rolled-up', 'prune_partition' ], [ 'claim-begin', 'claim' ], [ 'claim-taken', 'claim' ],
	[ 'complete-begin', 'complete' ], [ 'complete-written', 'complete' ], [ 'recount-counted', 'rebuild' ],
	[ 'maintain-step', 'maintain' ]);

# Every point that the sources have is in here, and in the documentation.
my %used = map { $_->[0] => 1 } @points;
my %named = map { $_ => 1 } map { slurp_file($_) =~ /JOBSTATE_INSTANT\("([\w-]+)"\)/g } glob 'src/*.c';
my $page = slurp_file('docs/architecture.md');
is(join(' ', sort keys %named), join(' ', sort keys %used), 'all points are tested');
is(join(' ', grep { index($page, "`jobstate-$_`") < 0 } sort keys %named), '', 'and documented');

sub clean
{
	my ($what) = @_;
	# a session that was ended has told so before it gives up its locks
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_locks WHERE relation >= 16384') or diag('something stays locked');
	is(value("SELECT * FROM jobstate.verify(); SELECT * FROM wrong WHERE state <> should_be; SELECT gid FROM pg_prepared_xacts;
		SELECT relation::regclass FROM pg_locks WHERE relation >= 16384"), '', $what);
}

# The operation with the point attached for its session alone, the rest of the session, and then once more without;
# what is settled would not get there again.
sub script
{
	my ($point, $action, $name) = @_;
	my ($before, $sql) = @{ $operation{$name} };
	my ($setup, $again) = @{ $operation{ $name eq 'settle' ? 'write' : $name } };
	my $end = "ROLLBACK; SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \\gexec\n";
	return "$before\nSELECT injection_points_set_local();\nSELECT injection_points_attach('jobstate-$point', '$action');\n"
	  . "$sql\n$end SELECT injection_points_detach('jobstate-$point');\n\\echo again\n$setup\n$again\n$end\\echo the end\n";
}

sub waiting
{
	my ($point) = @_;
	return value("SELECT pid FROM pg_stat_activity WHERE wait_event = 'jobstate-$point'");
}

# Runs it up to the point, then does this to the session, which is not to stop there again.  Returns what it answered.
sub interrupted
{
	my ($point, $name, $do) = @_;
	my $out = '';
	my $session = start_script($node, script($point, 'wait', $name), \$out);
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'jobstate-$point'"),
		"$point: $name gets there");
	my $pid = waiting($point);
	value("SELECT injection_points_detach('jobstate-$point')");
	$do->($pid);
	$session->finish;
	return $out;
}

for (@points)
{
	my ($point, $name) = @$_;
	my $out = run_script($node, script($point, 'error', $name));
	like($out, qr/ERROR:  XX000.*again.*the end/s, "$point: an error in $name");
	clean("$point: after the error");

	$out = interrupted($point, $name, sub { value("SELECT pg_cancel_backend($_[0])") });
	like($out, qr/ERROR:  57014.*again.*the end/s, "$point: cancelled, and the session goes on");
	clean("$point: after the cancel");

	$out = interrupted($point, $name, sub { value("SELECT pg_terminate_backend($_[0])") });
	like($out, qr/57P01/, "$point: terminated");
	clean("$point: after the end of the session");

	my $before = checkpointer($node);
	$out = interrupted($point, $name, sub { kill 'KILL', $_[0] });
	wait_until_up($node, $before);
	clean("$point: after kill -9");

	# a count afresh keeps writers out; nothing else does
	$out = interrupted($point, $name, sub {
		is(value("SET statement_timeout = '120 s'; UPDATE job SET state = 3 - state WHERE id BETWEEN 300 AND 320; SELECT 'written'"),
			'written', "$point: others write on") unless $point eq 'recount-counted';
		# once is enough, but it may have gone on by itself before the next look has its answer
		while (waiting($point)) { $node->psql('postgres', "SELECT injection_points_wakeup('jobstate-$point')") }
	});
	like($out, qr/again.*the end/s, "$point: and it goes on");
	clean("$point: after the wait");
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|WARNING: .*(leak|not closed)/, 'nothing else went wrong');
$node->stop;
done_testing();
