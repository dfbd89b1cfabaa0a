# Whatever fails halfway leaves the right state: memory that runs out, a call that fails, a request to
# cancel or to end, at exact instants of each operation; a disk that is full; a limit on memory; and
# timeouts and signals at instants that nobody chose. After each the counts are those of the rows, parents
# are what their children say, nothing is locked or prepared, and the same session works on.
#   JOBSTATE_FAULTS   instants of each operation and kind (3, which is the short form; 0 is all of them), and a seed
use strict;
use warnings;
use lib 'test/perl';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Faults;
use Instants;

plan skip_all => 'the server runs under something else' if $ENV{SERVER_UNDER};
my ($wanted, $seed) = split / /, ($ENV{JOBSTATE_FAULTS} // '') || '3 1';
my $long = $wanted != 3;
my %operation = operations();
srand($seed // 1);
note "JOBSTATE_FAULTS='$wanted ", $seed // 1, "'";

my $node = PostgreSQL::Test::Cluster->new('main');
my $marker = "$PostgreSQL::Test::Utils::tmp_check/nospace";
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
max_prepared_transactions = 10
autovacuum = off
log_statement = none
restart_after_crash = on
jobstate.auto_maintain = off
jit = off
});
{
	local $ENV{JOBSTATE_NOSPACE} = $marker;
	local $ENV{LD_PRELOAD} = join ' ', full_disk(), $ENV{LD_PRELOAD} // ();
	$node->start;
}
$node->safe_psql('postgres', make_tables());

sub value
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub clean
{
	my ($what) = @_;
	# a session that was ended has told so before it gives up its locks
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_locks l JOIN pg_stat_activity USING (pid)
		WHERE relation >= 16384 AND backend_type = 'client backend'}) or diag('something stays locked');
	is(value("SELECT * FROM jobstate.verify(); SELECT * FROM wrong WHERE state <> should_be;
		SELECT gid FROM pg_prepared_xacts; SELECT l.relation::regclass FROM pg_locks l JOIN pg_stat_activity USING (pid) WHERE relation >= 16384 AND backend_type = 'client backend'"), '', "all is right: $what");
}

sub disk_is_full
{
	my %fails;
	my @space = 0 .. ($long ? 40 : 5);
	for my $name (qw(write savepoints prepare fold move_on prune prune_partition derive rederive attach rebuild
		recount maintain enqueue claim complete rescue store transition truncate))
	{
		my @allowed = @{ $operation{$name} }[ 2 .. $#{ $operation{$name} } ];
		my $answers = run_script($node, join '', map { disk_script($operation{$name}, $marker, $_) } @space);
		my %other = map { $_ => 1 } $answers =~ /(?:ERROR|FATAL|PANIC):\s+(\w+)/g;
		$fails{$name} = () = $answers =~ /53100/g;
		delete @other{ '53100', @allowed };
		is(join(' ', sort(keys %other), $answers =~ /^(wrong.*)/mg), '', "$name: out of space $fails{$name} times");
	}
	cmp_ok($fails{$_}, '>', 0, "$_ needs space") for qw(write fold move_on prune prune_partition maintain rebuild);
	clean('with space again');
}

# The worker cannot fold and goes; writers write on, and once there is space the next one folds.
sub disk_is_full_for_the_worker
{
	my $size = q{SELECT sum(pg_relation_size(format('jobstate.segment_%s', n)::regclass)) / 8192 FROM generate_series(0, 7) n};
	my $write = 'UPDATE job SET state = 3 - state WHERE id <= 300;';
	my $from = -s $node->logfile;

	value($write x 120);
	$node->append_conf('postgresql.conf', 'jobstate.auto_maintain = on');
	$node->reload;
	my $full = value($size);
	append_to_file($marker, '0 jobstate maintain');
	for (1 .. 5 * $PostgreSQL::Test::Utils::timeout_default)
	{
		value($write);
		last if slurp_file($node->logfile, $from) =~ /No space left on device/;
		usleep(200_000);
	}
	like(slurp_file($node->logfile, $from), qr/ERROR: .*No space left on device/, 'the worker finds no space');
	cmp_ok(value($size), '>=', $full, 'nothing is folded');
	clean('while the worker has no space');
	unlink $marker;
	for (1 .. 5 * $PostgreSQL::Test::Utils::timeout_default)
	{
		value($write);
		last if value($size) < $full / 2;
		usleep(200_000);
	}
	cmp_ok(value($size), '<', $full / 2, 'with space again it folds');
	clean('after the worker has folded');
}

# A session that may take so much more memory than it has.
sub limited_session
{
	my ($megabytes) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('SELECT pg_backend_pid()');
	$session->query(q{SET client_min_messages = error; SELECT count(*) FROM jobstate.verify(); SELECT count(*) FROM jobstate.counts('wide')});
	my ($has) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
	system_or_bail('prlimit', '--pid', $pid, '--as=' . ($has * 1024 + $megabytes * 1024 * 1024));
	return $session;
}

# What it answers, errors included
sub answer
{
	my ($session, $sql) = @_;
	my ($out) = $session->query($sql);
	my $err = $session->{stderr};
	$session->{stderr} = '';
	return $out . $err;
}

sub memory_is_limited
{
	my $keys = $long ? 1_000_000 : 150_000;
	my $megabytes = $long ? 200 : 60;
	my $insert = "INSERT INTO wide SELECT n, 1 FROM generate_series(1, $keys) n";

	my $session;
	my $rows = 0;
	# memory is refused at other instants by each limit, most often where a table of keys wants to grow
	for my $limit (map { $megabytes * $_ / 20 } 4, 5, 6, 7, 8, 10)
	{
		$session = limited_session($limit);
		like(answer($session, "BEGIN; SAVEPOINT s; $insert; INSERT INTO wide SELECT n, 1 FROM generate_series(2000000, 4000000) n"),
			qr/out of memory/, "so many keys in a savepoint do not fit into $limit MB");
		answer($session, 'ROLLBACK TO s; INSERT INTO wide SELECT -n, 1 FROM generate_series(1, 1000) n; COMMIT');
		$rows += 1000;
		is(answer($session, 'SELECT count(*) FROM wide'), $rows, 'what was before is right, the session goes on');
		is(answer($session, 'SELECT * FROM jobstate.verify()'), '', 'the counts hold');
		$session->quit;
	}

	# so it is with the table of parents that are to be derived, which no savepoint takes back
	for my $limit (map { $megabytes * $_ / 20 } 4, 6)
	{
		$session = limited_session($limit);
		like(answer($session, 'BEGIN; SAVEPOINT s; INSERT INTO parent SELECT n FROM generate_series(1000, 3000000) n'),
			qr/out of memory/, "so many parents in a savepoint do not fit into $limit MB");
		answer($session, 'ROLLBACK TO s; INSERT INTO parent SELECT -n FROM generate_series(1, 1000) n; ROLLBACK');
		is(answer($session, 'SELECT count(*) FROM parent'), '12', 'what was before is right, the session goes on');
		$session->quit;
	}

	$session = limited_session($megabytes);
	is(answer($session, $insert), '', "$keys keys in one transaction go to the log early, in $megabytes MB");
	$session->quit;
	$session = limited_session($megabytes / 8);
	like(answer($session, 'SELECT jobstate.fold()'), qr/out of memory/, 'a fold of all of them does not fit into less');
	is(answer($session, 'SELECT count(*) FROM extra'), '50', 'the session goes on');
	$session->quit;
	is(value('SELECT sum(n) FROM jobstate.counts(\'wide\')'), $keys + $rows, 'all are counted');
	cmp_ok(value('SELECT jobstate.fold()'), '>', $keys / 2, 'where there is memory they are folded');
	value('TRUNCATE wide');
	value('VACUUM parent');    # all that follows looks at its rows
	clean('after the limits');
}

# Timeouts that end a statement anywhere, and requests by others
sub timeouts
{
	my @names = grep { $_ ne 'move_on' && $_ ne 'drop' } sort keys %operation;
	my $n = $long ? 3000 : 60;
	my $script = '';
	for (1 .. $n)
	{
		my $name = $names[ rand @names ];
		my $ms = 1 + int(rand(12));
		$script .= "\\echo at $name\n$operation{$name}[0]\nSET statement_timeout = '$ms ms';\n$operation{$name}[1]\nROLLBACK;\nRESET statement_timeout;\n"
		  . "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts \\gexec\n"
		  . ($long && $_ % 20 ? '' : "SELECT 'wrong: ' || v FROM jobstate.verify() v;\n");
	}
	my $answers = run_script($node, $script);
	my $cut = () = $answers =~ /57014/g;
	my %other = map { $_ => 1 } $answers =~ /(?:ERROR|FATAL|PANIC):\s+(\w+)/g;
	delete @other{qw(57014 25P02 3B001 23514 P0001)};
	is(join(' ', sort(keys %other), $answers =~ /^(wrong.*)/mg), '', "statement_timeout ended $cut of $n operations");
	clean('after statement_timeout');
}

sub others_ask
{
	my $rounds = $long ? 2000 : 20;
	my @names = grep { $_ ne 'move_on' && $_ ne 'drop' } sort keys %operation;
	my %asked;
	for my $round (1 .. $rounds / 10)
	{
		my $script = join '', map { "$operation{$_}[0]\n$operation{$_}[1]\nROLLBACK;\nSELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \\gexec\n" }
		  map { $names[ rand @names ] } 1 .. 40;
		my $out = '';
		my $victim = start_script($node, "SET application_name = victim;\n$script", \$out);
		for (1 .. 10)
		{
			my $ask = $_ < 10 ? 'cancel' : 'terminate';
			usleep(1000 + rand 60_000);
			$asked{$ask} += value("SELECT count(pg_${ask}_backend(pid)) FROM pg_stat_activity WHERE application_name = 'victim'");
		}
		$victim->finish;
	}
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim'");
	value("ROLLBACK PREPARED 'cut'") if value('SELECT count(*) FROM pg_prepared_xacts');
	clean("after others asked to cancel $asked{cancel} and to terminate $asked{terminate} times");
}

# Waits for a lock that end, and sessions that sit in a transaction
sub waits
{
	my $blocker = $node->background_psql('postgres', on_error_stop => 0);
	$blocker->query('BEGIN; SELECT * FROM job WHERE id = 5 FOR UPDATE; SELECT * FROM parent WHERE id = 3 FOR UPDATE; LOCK TABLE part, extra IN ACCESS SHARE MODE; SELECT count(*) FROM jobstate.segment_0');
	for my $sql ('UPDATE job SET state = 3 - state WHERE id <= 100', 'UPDATE child SET state = 3 - state WHERE parent = 3', 'SELECT jobstate.rederive(\'parent\')',
		'TRUNCATE part', 'ALTER TABLE extra RENAME TO other', 'SELECT jobstate.prune_partition(\'part_0\', \'finished\')')
	{
		my $answers = run_script($node, "BEGIN; SET LOCAL lock_timeout = '30 ms'; UPDATE job SET state = 3 - state WHERE id = 7; $sql; COMMIT;");
		like($answers, qr/55P03/, "lock_timeout ends: $sql");
	}
	$blocker->quit;
	clean('after lock_timeout');

	my @settings = ('idle_in_transaction_session_timeout');
	push @settings, 'transaction_timeout' if value('SHOW server_version_num') >= 170000;
	for my $setting (@settings)
	{
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		my $pid = $session->query('SELECT pg_backend_pid()');
		$session->query("SET $setting = '150 ms'; BEGIN; UPDATE job SET state = 3 - state WHERE id <= 50; UPDATE child SET state = 3 - state; SELECT jobstate.derive_now(); SELECT jobstate.fold()");
		ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), "$setting ends the session");
		eval { $session->quit };
		clean("after $setting");
	}
}

memory_is_limited();
disk_is_full();
disk_is_full_for_the_worker();
timeouts();
others_ask();
waits();
SKIP:
{
	my ($library, $reason) = faulty_extension();
	skip "no exact instants: $reason" unless $library;
	use_faulty($node, $library);
	my $struck = 0;
	# few instants, all of which are worth it
	$struck += sweep($node, 'journal', $operation{journal}, 'm', 0);
	$struck += sweep($node, $_, $operation{$_}, 'mfc', $wanted) for sort keys %operation;
	$struck += sweep($node, $_, $operation{$_}, 'tk', $long ? 20 : 1)
	  for $long ? sort keys %operation : qw(savepoints fold prune derive complete maintain);
	note "$struck faults struck";
	clean('after all of them');
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal (?!9)|WARNING: .*(leak|not closed)/, 'nothing else went wrong');
$node->stop;
done_testing();
