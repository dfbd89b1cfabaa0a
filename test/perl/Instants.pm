# Operations of the extension, each cut short at every one of its instants; see test/faults/fault.c.
package Instants;
use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(make_tables operations sweep run_script start_script checkpointer wait_until_up disk_script);

sub make_tables
{
	return q{
		CREATE EXTENSION IF NOT EXISTS jobstate;
		SELECT jobstate.define_machine('phase', '{"ready": 1, "done": 2, "gone": 3}',
			'{ready -> done, done -> ready, done -> gone, ready -> gone}', '{ready, gone}', '{gone}');
		SELECT jobstate.define_machine('whole', '{"waiting": 1, "partly": 2, "over": 3}',
			'{waiting -> partly, partly -> waiting, partly -> over, over -> partly, waiting -> over, over -> waiting}', '{waiting}', '{}');
		CREATE TABLE job (id int PRIMARY KEY, queue int, state smallint NOT NULL, finished timestamptz DEFAULT '2020-01-01');
		INSERT INTO job SELECT n, n % 300, 1 FROM generate_series(1, 400) n;
		SELECT jobstate.attach('job', 'phase', 'state', '{queue}');
		CREATE TABLE part (id int, slot int, state text NOT NULL, finished timestamptz DEFAULT '2020-01-01', PRIMARY KEY (slot, id)) PARTITION BY LIST (slot);
		CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
		SELECT jobstate.attach('part', 'phase', 'state', '{slot}');
		CREATE TABLE parent (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting', why text);
		CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, state smallint NOT NULL);
		CREATE INDEX ON child (parent);
		SELECT jobstate.attach('parent', 'whole', 'state'), jobstate.attach('child', 'phase', 'state');
		SELECT jobstate.define_rules('sum', '{empty -> waiting, all done -> over, any done -> partly, always -> waiting}');
		SELECT jobstate.derive('parent', 'child', 'parent', 'sum', reason => 'why');
		INSERT INTO parent SELECT n FROM generate_series(1, 12) n;
		INSERT INTO child SELECT n, n % 12 + 1, 1 FROM generate_series(1, 36) n;
		CREATE TABLE extra (id int PRIMARY KEY, state smallint NOT NULL);
		INSERT INTO extra SELECT n, 1 FROM generate_series(1, 50) n;
		SELECT jobstate.attach('extra', 'phase', 'state');
		CREATE TABLE wide (id int, state smallint NOT NULL);
		SELECT jobstate.attach('wide', 'phase', 'state', '{id}');
		SELECT jobstate.install('queue'), jobstate.install('store');
		SELECT jobstate.queue_define('q'), jobstate.queue_define('l', '{"max_running": 1000, "max_running_per_key": 500}');
		SELECT jobstate.queue_ring_define('{"slots": 4, "slot_jobs": 50}');
		CREATE TABLE claimed (id bigint, token bigint);
		-- what a parent is, and what its children say
		CREATE VIEW wrong AS
			SELECT p.id, p.state, jobstate.fold('sum', (SELECT array_agg(CASE c.state WHEN 1 THEN 'ready' WHEN 2 THEN 'done' ELSE 'gone' END)
				FROM child c WHERE c.parent = p.id)) AS should_be FROM parent p;
	};
}

# What is done before, what is cut short, and the errors that follow from what was cut.
sub operations
{
	my $flip = 'UPDATE job SET state = 3 - state WHERE id';
	my $flip_children = 'UPDATE child SET state = 3 - state WHERE id';
	my $claim = q{INSERT INTO claimed SELECT id, token FROM jobstate.claim('q', 'w', 5);};
	my $enqueue = q{SELECT count(*) FROM jobstate.enqueue_many('q', array_fill('k'::text, '{8}'), array_fill('{}'::jsonb, '{8}'));};
	my $fill = q{INSERT INTO part SELECT n, n % 2, 'gone' FROM generate_series(1, 12) n ON CONFLICT DO NOTHING;};
	return (
		write => [ '', "$flip <= 150;" ],
		savepoints => [ '', "BEGIN; $flip <= 80; SAVEPOINT a; $flip BETWEEN 40 AND 160; SAVEPOINT b; $flip <= 100;
			ROLLBACK TO a; $flip <= 200; SAVEPOINT c; $flip <= 10; RELEASE c; COMMIT;", qw(25P02 3B001) ],
		blocks => [ '', "DO \$\$ BEGIN FOR i IN 1..3 LOOP BEGIN $flip <= 90; $flip_children <= 20; PERFORM jobstate.derive_now();
			EXCEPTION WHEN OTHERS OR query_canceled THEN END; $flip <= 20 * i; END LOOP; END \$\$;" ],
		# the first of what a savepoint may take back
		journal => [ '', "BEGIN; $flip = 1; SAVEPOINT a; $flip = 1; ROLLBACK TO a; $flip = 1; COMMIT;", qw(25P02 3B001) ],
		halves => [ q{DELETE FROM part; INSERT INTO part VALUES (1, 0, 'ready');}, q{BEGIN; SAVEPOINT a; UPDATE part SET slot = 1 - slot WHERE id = 1; ROLLBACK TO a;
			INSERT INTO part VALUES (999, 0, 'done'); COMMIT; SELECT 'wrong: it came in as if it had moved' FROM part WHERE id = 999;}, qw(25P02 23514 3B001) ],
		prepare => [ '', "BEGIN; $flip <= 40; $flip_children <= 10; PREPARE TRANSACTION 'cut';", '25P02' ],
		fold => [ "$flip <= 60;", 'SELECT jobstate.fold();' ],
		move_on => [ 'INSERT INTO wide SELECT n, 1 FROM generate_series(1, 2500) n; TRUNCATE wide; INSERT INTO wide SELECT n, 1 FROM generate_series(1, 2500) n; DELETE FROM wide;',
			'SELECT jobstate.fold();' ],
		prune => [ 'INSERT INTO job SELECT 500 + n, n % 7, 3 FROM generate_series(1, 20) n ON CONFLICT DO NOTHING;',
			q{SELECT jobstate.prune('job', '1 day', 'finished', 15);} ],
		prune_partition => [ $fill, q{SELECT jobstate.prune_partition('part_1', 'finished');} ],
		truncate => [ $fill, 'BEGIN; DELETE FROM part WHERE id = 1; TRUNCATE part_0; COMMIT; TRUNCATE part;', '25P02' ],
		derive => [ '', "BEGIN; $flip_children <= 20; SAVEPOINT a; $flip_children > 10; SELECT jobstate.derive_now(); ROLLBACK TO a; $flip_children = 36; COMMIT;", qw(25P02 3B001) ],
		parents => [ '', 'BEGIN; INSERT INTO parent SELECT n FROM generate_series(20, 25) n; INSERT INTO child SELECT n, n, 1 FROM generate_series(100, 130) n WHERE n < 0;
			DELETE FROM parent WHERE id >= 20; COMMIT;', '25P02' ],
		rederive => [ '', q{SELECT jobstate.rederive('parent');} ],
		attach => [ '', q{BEGIN; SELECT jobstate.detach('extra'); UPDATE extra SET state = 3 - state; SELECT jobstate.attach('extra', 'phase', 'state'); COMMIT;}, '25P02' ],
		rebuild => [ "$flip <= 20;", q{SELECT jobstate.rebuild('job');} ],
		recount => [ 'BEGIN; ALTER TABLE extra DISABLE TRIGGER jobstate_watch; ALTER TABLE extra ENABLE ALWAYS TRIGGER jobstate_watch; COMMIT;',
			q{SELECT jobstate.recount('extra');} ],
		alter => [ '', "BEGIN; $flip <= 20; ALTER TABLE job RENAME COLUMN queue TO lane; $flip <= 30; ALTER TABLE job RENAME COLUMN lane TO queue; $flip <= 10; COMMIT;", '25P02' ],
		partition => [ '', q{BEGIN; CREATE TABLE part_9 PARTITION OF part FOR VALUES IN (9); INSERT INTO part VALUES (1, 9, 'ready'); DROP TABLE part_9; COMMIT;}, '25P02' ],
		drop => [ '', q{BEGIN; CREATE TABLE passing (id int PRIMARY KEY, state smallint); SELECT jobstate.attach('passing', 'phase', 'state');
			INSERT INTO passing VALUES (1, 1); DROP TABLE passing; COMMIT;}, '25P02' ],
		maintain => [ 'INSERT INTO wide SELECT n, 1 FROM generate_series(1, 7000) n; TRUNCATE wide;', 'CALL jobstate.maintain();' ],
		enqueue => [ '', $enqueue ],
		claim => [ $enqueue, "BEGIN; $claim SAVEPOINT a; $claim ROLLBACK TO a; COMMIT;", qw(25P02 3B001) ],
		limited => [ '', q{SELECT count(*) FROM jobstate.enqueue('l', 'k', limit_key => 'x'); SELECT count(*) FROM jobstate.claim('l', 'w', 2);} ],
		complete => [ "$enqueue TRUNCATE claimed; $claim", 'SELECT count(*) FROM (SELECT jobstate.complete((SELECT array_agg(id) FROM claimed), (SELECT array_agg(token) FROM claimed))) c;' ],
		rescue => [ q{SELECT count(*) FROM jobstate.claim('q', 'w', 2, '1 microsecond');}, 'SELECT count(*) FROM jobstate.rescue(); SELECT jobstate.promote();' ],
		store => [ '', q{BEGIN; SELECT jobstate.store_update('r', '{"progress": {"percent": 5}}', upsert => true); SELECT jobstate.store_update('r', '{"error": "x"}'); COMMIT;}, '25P02' ],
		transition => [ '', q{SELECT count(*) FROM jobstate.transition('job', ARRAY(SELECT id::bigint FROM job WHERE id <= 30), 'done', 'ready');
			SELECT count(*) FROM jobstate.take('job', 'ready', 'done', n => 10);} ],
		read => [ "$flip <= 10;", q{SELECT count(*) FROM jobstate.counts('job'); SELECT count(*) FROM jobstate.totals('job'); SELECT count(*) FROM jobstate.verify();} ],
	);
}

# After each: nothing is prepared or locked any more, no count is wrong, no parent other than its children say.
my $check = q{
SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \gexec
SELECT 'wrong: drift ' || v FROM jobstate.verify() v;
SELECT 'wrong: parent ' || w FROM wrong w WHERE state <> should_be;
SELECT 'wrong: locked ' || relation::regclass FROM pg_locks WHERE pid = pg_backend_pid() AND (relation >= 16384 OR locktype = 'advisory');
};

my $forget_all = 'UPDATE jobstate.attachment SET machine = machine WHERE false;';

sub instants_sql
{
	my ($operation, $kind, $n) = @_;
	my ($before, $sql) = @$operation;

	# what is kept from the catalogue is made anew, or is not, by turns
	my $forget = $n % 2 ? $forget_all : '';
	return "\\echo at $kind $n\n$before\n$forget\nSELECT fault('$kind', $n);\n$sql\nROLLBACK;\nSELECT 'struck ' || fault_report();\n$check\n";
}

my $scripts = 0;

# A session that works through a script.  What it prints is complete after finish().
sub start_script
{
	my ($node, $script, $out) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/script_" . ++$scripts . ".sql";

	open my $handle, '>', $file or die;
	print $handle "\\set VERBOSITY sqlstate\nSET client_min_messages = error;\n$script";
	close $handle;
	return IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-f', $file ], '<', \'', '>&', $out);
}

sub run_script
{
	my ($node, $script) = @_;
	my $out = '';

	start_script($node, $script, \$out)->finish;
	return $out;
}

# One operation after the other while the disk has so much space left, the check when it has more again.
sub disk_script
{
	my ($operation, $marker, $space) = @_;
	my ($before, $sql) = @$operation;

	return "\\echo at $space\n$before\n\\! echo $space > $marker\n$sql\n\\! rm $marker\nROLLBACK;\n$check\n";
}

# Which of so many: all, or so many of them, in even steps from a beginning that the seed decides.
sub choose
{
	my ($total, $wanted) = @_;
	return 1 .. $total if !$wanted || $total <= $wanted;
	my $step = $total / $wanted;
	my $first = rand($step);
	return map { 1 + int($first + $_ * $step) } 0 .. $wanted - 1;
}

# Who writes checkpoints; another one after each recovery.  A query on standard input may meet a connection that is refused,
# so it is an argument.
sub checkpointer
{
	my ($node) = @_;
	my $out = '';
	IPC::Run::run([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'} ],
		'<', \'', '>', \$out, '2>', '/dev/null');
	return $out =~ /^(\d+)$/ ? $1 : '';
}

# After a backend was killed.  The server answers for a while until it takes note of that, and then not until it has recovered.
sub wait_until_up
{
	my ($node, $before) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $now = checkpointer($node);
		return if $now ne '' && $now ne $before;
		usleep(100_000);
	}
	die 'the server does not come back';
}

# A fault that ends the session, or the process and with it all others; and a look at what is left.
sub end_of_session
{
	my ($node, $operation, $kind, $n) = @_;
	my $before = checkpointer($node);
	my $answer = run_script($node, instants_sql($operation, $kind, $n));
	wait_until_up($node, $before) if $kind eq 'k' && $answer =~ /connection to server was lost/;
	return $answer . run_script($node, "SELECT 'struck ' || fault_report();\n$check");
}

my %expected = (m => '53200', f => '58030', c => '57014', t => '57P01', k => 'kill -9');

# What an operation answered at one instant: the call that was struck, and what is wrong about it.
sub judge
{
	my ($answer, $kind, @allowed) = @_;
	my ($struck) = $answer =~ /^struck \d+ (\S*)$/m;
	my %allowed = map { $_ => 1 } $expected{$kind}, @allowed;
	my @wrong = $answer =~ /^(wrong: .*)$/mg;
	my $lost = $answer =~ /connection to server was lost/;

	push @wrong, grep { !$allowed{ ($_ =~ /(?:ERROR|FATAL):\s+(\w+)/)[0] // '' } } $answer =~ /^(.*(?:ERROR|FATAL|PANIC):.*)$/mg;
	push @wrong, 'no end' if !defined $struck;
	push @wrong, 'the session is gone' if $lost && $kind =~ /[mfc]/;
	return ($lost ? 'the session' : $struck // '', @wrong);
}

# Ours, and lists; what the server keeps of the catalogue has contexts of its own.
my $memory = q{SELECT 'memory ' || sum(total_bytes) / 1024 FROM pg_backend_memory_contexts WHERE name LIKE 'jobstate%' OR name = 'TopMemoryContext';};

# How many instants an operation has, of those where memory is asked for, and of all; nothing is kept yet.
sub count_instants
{
	my ($node, $operation) = @_;
	my $out = run_script($node, join $forget_all, map { instants_sql($operation, $_, 0) } qw(m f m f));
	my @counts = $out =~ /^struck (\d+)/mg;
	diag($out) if @counts < 4 || !$counts[3];
	return @counts < 4 ? () : ($counts[2], $counts[3]);
}

sub report
{
	my ($name, $wrong, $title) = @_;
	my @wrong = sort keys %$wrong;
	is(scalar @wrong, 0, "$name: $title") or diag(join "\n", map { "$_: " . join ' | ', @{ $wrong->{$_} } } splice @wrong, 0, 5);
}

# Cuts one operation short by each kind of fault, at so many instants or at all.  Returns how many faults struck.
sub sweep
{
	my ($node, $name, $operation, $kinds, $wanted) = @_;
	my ($before, $sql, @allowed) = @$operation;
	my ($of_memory, $of_all) = count_instants($node, $operation);
	my (@scripts, @answers, %wrong);
	my $struck = 0;

	ok($of_all, "$name can be cut short") or return 0;
	my @at = map { my $kind = $_; map { [ $kind, $_ ] } choose($kind eq 'm' ? $of_memory : $of_all, $wanted) } split //, $kinds;
	my @in_session = grep { $_->[0] =~ /[mfc]/ } @at;
	@answers = split /^at /m, run_script($node, join '', map({ instants_sql($operation, @$_) } @in_session), "\\echo at the end\n", $memory);
	shift @answers;
	my ($left) = pop(@answers) =~ /^memory (\d+)/m;
	is(scalar @answers, scalar @in_session, "$name: the session goes on to the end");
	# a new session begins with what the postmaster has, which grows with each crash
	my ($new) = run_script($node, $memory) =~ /^memory (\d+)/m;
	cmp_ok($left - $new, '<', 448, "$name: what it keeps, in kB");
	push @answers, map { end_of_session($node, $operation, @$_) } grep { $_->[0] =~ /[tk]/ } @at;
	for my $i (0 .. $#answers)
	{
		my ($kind, $n) = @{ $at[$i] };
		my ($call, @found) = judge($answers[$i], $kind, @allowed);
		$struck++ if $call ne '';
		push @{ $wrong{"$kind $n in $call"} }, @found if @found;
	}
	report($name, \%wrong, sprintf('%d faults at %d of %d instants', $struck, scalar @at, $of_memory * ($kinds =~ tr/m//) + $of_all * ($kinds =~ tr/fctk//)));
	return $struck;
}

1;
