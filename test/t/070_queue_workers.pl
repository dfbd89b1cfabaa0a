
# examples/worker.py and examples/worker.mjs as they are, through a PgBouncer that gives each transaction
# another session: some jobs fail and are tried again, some die, some are cancelled, one worker is killed.
# In the end everything was done exactly once, and the counts are those of the rows.
use strict;
use warnings;
use Cwd 'abs_path';
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $python = $ENV{PYTHON} || 'python3';
my $modules = PostgreSQL::Test::Utils::tempdir;
$ENV{NODE_PATH} = join ':', grep { defined } "$modules/node_modules", $ENV{NODE_PATH}, '/usr/share/nodejs';

plan skip_all => 'package pgbouncer is not here' if !works('pgbouncer', '--version');
plan skip_all => 'package python3-psycopg is not here' if !works($python, '-c', 'import psycopg');
plan skip_all => 'package nodejs is not here' if !works('node', '--version');
plan skip_all => 'package node-pg is not here' if !has_pg();

sub works
{
	my @command = @_;
	return eval { IPC::Run::run(\@command, '<', \undef, '>', \my $out, '2>', \my $err) };
}

# Debian's node-pg goes with Debian's nodejs.  A nodejs from elsewhere comes with npm.  Modules in
# import statements are looked for beside the script only, so it gets a copy there.
sub has_pg
{
	works('npm', 'install', '--prefix', $modules, '--silent', '--no-save', 'pg@8') if !works('node', '-e', "require('pg')");
	return 0 if !works('node', '-e', "require('pg')");
	my $folder;
	IPC::Run::run([ 'node', '-p', "require('path').dirname(require.resolve('pg/package.json'))" ], '>', \$folder);
	chomp $folder;
	mkdir "$modules/node_modules";
	symlink $folder, "$modules/node_modules/pg" if !-e "$modules/node_modules/pg";
	return copy('examples/worker.mjs', "$modules/worker.mjs");
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('queue');
	SELECT jobstate.queue_define('shop', '{"max_attempts": 4, "backoff": "50 ms", "notify": true}');
	CREATE TABLE payment (order_id integer NOT NULL, job_id bigint NOT NULL);
	CREATE TABLE receipt (LIKE payment);

	-- what goes wrong: every seventh order is declined twice, every fiftieth always
	CREATE TABLE declined (every integer, attempts integer);
	INSERT INTO declined VALUES (7, 2), (50, 99);
	CREATE FUNCTION decline() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM declined d
					WHERE NEW.order_id <= 300 AND NEW.order_id % d.every = 0
					  AND (SELECT attempt FROM jobstate.job_status(NEW.job_id)) <= d.attempts) THEN
			RAISE 'the card of order % is declined', NEW.order_id;
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER decline AFTER INSERT ON payment FOR EACH ROW EXECUTE FUNCTION decline();
});

# PgBouncer with fewer sessions than clients, so that sessions do change hands
my $bouncer_dir = PostgreSQL::Test::Utils::tempdir_short;
append_to_file("$bouncer_dir/pgbouncer.ini", <<"END");
[databases]
postgres = host=${\ $node->host} port=${\ $node->port} dbname=postgres user=${\ (getpwuid $<)[0]}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = $bouncer_dir
auth_type = any
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = extra_float_digits,options
END
my $bouncer = start('pgbouncer', [ 'pgbouncer', "$bouncer_dir/pgbouncer.ini" ]);
ok(eventually(sub { -S "$bouncer_dir/.s.PGSQL.6432" }), 'PgBouncer runs');

my %script = (
	python => [ $python, '-B', abs_path('examples/worker.py') ],
	node => [ 'node', "$modules/worker.mjs" ]);
my @running;

# Every process writes to a log of its own.
sub start
{
	my ($name, $command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/queue_workers_$name.log";
	return IPC::Run::start($command, '<', \undef, '>>', $log, '2>&1');
}

sub start_worker
{
	my ($language, $queue, %env) = @_;
	local %ENV = (%ENV, PGHOST => $bouncer_dir, PGPORT => 6432, PGDATABASE => 'postgres',
		PGUSER => (getpwuid $<)[0], LEASE => 10, IDLE => 0.5, %env);
	my $worker = start("$language", [ @{ $script{$language} }, $queue ]);
	push @running, $worker;
	return $worker;
}

sub eventually
{
	my $condition = shift;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $condition->();
		sleep 0.1;
	}
	return 0;
}

sub value { return $node->safe_psql('postgres', shift) }

sub jobs
{
	my ($queue, $state) = @_;
	return value(qq{SELECT coalesce(sum(n), 0) FROM jobstate.queue_counts('$queue') WHERE state = '$state'});
}

# Orders that are charged slowly, a batch at most
sub enqueue_slow
{
	my ($queue, $from, $to, $seconds) = @_;
	value(qq{SELECT count(*) FROM jobstate.enqueue_many('$queue', array_fill('charge'::text, ARRAY[$to - $from + 1]),
		ARRAY(SELECT jsonb_build_object('order', n, 'seconds', $seconds) FROM generate_series($from, $to) n))});
}

# While this is open no payment comes to its end, however long the machine takes over what is tested meanwhile.
sub hold_payments
{
	my $holder = $node->background_psql('postgres', on_error_stop => 1);
	$holder->query_safe('BEGIN; LOCK TABLE payment IN SHARE MODE');
	return $holder;
}

# killed -9 with ten jobs in hand each, one of them at work
my $holder = hold_payments();
enqueue_slow('shop', 1001, 1020, 0.4);
start_worker($_, 'shop', LEASE => 3) for 'python', 'node';
ok(eventually(sub { jobs('shop', 'available') == 0 }), 'each claims a batch');
$_->signal('KILL') for @running;
$_->finish for @running;
$holder->quit;
is(jobs('shop', 'running'), '20', 'what dead workers hold is still their own');
@running = ();

# the load, and those who carry it
value(q{SELECT count(*) FROM jobstate.enqueue_many('shop', array_fill('charge'::text, ARRAY[300]),
	ARRAY(SELECT jsonb_build_object('order', n) FROM generate_series(1, 300) n),
	run_ats => ARRAY(SELECT CASE WHEN n % 5 = 0 THEN clock_timestamp() + n * interval '10 ms' END FROM generate_series(1, 300) n))});
my $later = value(q{SELECT id FROM jobstate.enqueue('shop', 'charge', '{"order": 901}', run_at => now() + interval '1 hour')});
is(value("SELECT jobstate.cancel($later)"), 'cancelled', 'what waits is cancelled at once');
start_worker($_, 'shop') for 'python', 'node', 'python', 'node';

ok(eventually(sub { value(q{SELECT count(*) FROM jobstate.jobs WHERE state IN ('available', 'running', 'deferred')}) == 0 }),
	'all jobs come to an end');
is(value(q{SELECT string_agg(payload ->> 'order', ' ' ORDER BY (payload ->> 'order')::int) FROM jobstate.dead_letter}),
	'50 100 150 200 250 300', 'what always fails is dead');
is(value(q{SELECT DISTINCT attempt || ' ' || jsonb_array_length(errors) FROM jobstate.dead_letter}), '4 4', 'after its attempts');
is(value(q{SELECT DISTINCT attempt FROM jobstate.jobs WHERE kind = 'charge' AND (payload ->> 'order')::int % 7 = 0
	AND (payload ->> 'order')::int BETWEEN 1 AND 300}), '3', 'what failed twice was tried three times');
cmp_ok(value(q{SELECT count(*) FROM jobstate.jobs WHERE errors::text LIKE '%lease expired%'}), '>=', 20,
	'what dead workers held was rescued');

# a job that runs is cancelled by its worker
for my $language ('python', 'node')
{
	my $id = value(qq{SELECT id FROM jobstate.enqueue('$language', 'charge', '{"order": 902, "seconds": 600}')});
	start_worker($language, $language);
	ok(eventually(sub { jobs($language, 'running') == 1 }), "$language: begins a long job");
	is(value("SELECT jobstate.cancel($id)"), 'requested', "$language: it is asked to cancel it");
	ok(eventually(sub { value("SELECT state FROM jobstate.job_status($id)") eq 'cancelled' }), "$language: it does");
}

# somebody mends the cause, and the dead come back
value(q{DELETE FROM declined});
is(value(q{SELECT jobstate.dlq_retry_all('shop')}), '6', 'the dead letters are retried');
ok(eventually(sub { jobs('shop', 'completed') == 640 }), 'and complete');

# SIGTERM in the middle of a batch: the job at work is done, the others are given back
$holder = hold_payments();
enqueue_slow('python', 2001, 2005, 0);
enqueue_slow('node', 2006, 2010, 0);
ok(eventually(sub { value(q{SELECT count(*) FROM pg_locks WHERE relation = 'payment'::regclass AND NOT granted}) == 2 }), 'batches are begun');
# it is there before what they wait for
$_->signal('TERM') for @running;
$holder->quit;
ok($_->finish, 'a worker ends when it is told to') for @running;
is(value(q{SELECT count(*) FROM jobstate.jobs WHERE state = 'running'}), '0', 'and holds nothing any more');
is(value(q{SELECT count(*), max(attempt) FROM jobstate.jobs WHERE state IN ('available', 'deferred') AND kind = 'charge'}), '8|0',
	'what it had not begun has all its attempts');
@running = ();
start_worker($_, $_, IDLE => 600, LISTEN_HOST => $node->host, LISTEN_PORT => $node->port) for 'python', 'node';
ok(eventually(sub { value(q{SELECT count(*) FROM receipt WHERE order_id > 2000}) == 10 }), 'others go on with that');

# and sleep until they are told
ok(eventually(sub { value(q{SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN jobstate_queue'}) == 2 }), 'they listen');
sleep 1;
for my $queue ('python', 'node')
{
	value(qq{SELECT jobstate.queue_define('$queue', '{"notify": true}')});
	enqueue_slow($queue, $queue eq 'python' ? 3001 : 3002, $queue eq 'python' ? 3001 : 3002, 0);
}
ok(eventually(sub { value(q{SELECT count(*) FROM receipt WHERE order_id > 3000}) == 2 }), 'a worker that listens is woken');
$_->signal('TERM') for @running;
$_->finish for @running;

# exactly once
for my $table ('payment', 'receipt')
{
	is(value("SELECT count(*), count(DISTINCT order_id), count(DISTINCT job_id) FROM $table"), '332|332|332', "$table: once for each order");
}
is(value(q{SELECT state, count(*) FROM jobstate.jobs GROUP BY 1 ORDER BY 1}), "cancelled|3\ncompleted|664", 'nothing is left');
is(value(q{SELECT count(*) FROM jobstate.jobs j WHERE j.state = 'completed' AND NOT EXISTS (SELECT FROM payment WHERE job_id = j.id)
	AND NOT EXISTS (SELECT FROM receipt WHERE job_id = j.id)}), '0', 'no job completed without its row');
is(value(q{SELECT state, sum(n) FROM jobstate.queue_counts() GROUP BY 1 ORDER BY 1}), "cancelled|3\ncompleted|664", 'the counts say the same');
is(value(q{SELECT * FROM jobstate.verify()}), '', 'and are exact');

$bouncer->signal('INT');
$bouncer->finish;
$node->stop;
done_testing();

# PgBouncer and workers that are left when a test fails
END
{
	local $?;
	eval { $_->kill_kill } for grep { defined } @running, $bouncer;
}
