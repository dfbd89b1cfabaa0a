
# ALTER EXTENSION UPDATE from every released version, with work under way: what is there
# then is what CREATE EXTENSION makes, and the work goes on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Families;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njobstate.auto_maintain = off\nmax_prepared_transactions = 5");
$node->start;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my @released = sort map { /jobstate--(.+)\.sql$/ } glob 'sql/released/*.sql';
cmp_ok(scalar @released, '>', 0, 'there are released versions');

# What the catalogue says of the extension and its families, in a file.
sub described
{
	my ($db) = @_;
	my $file = "$tmp/$db.txt";
	$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), '-f', 'test/schema.sql', '-o', $file ], "$db is described");
	return $file;
}

sub create
{
	my ($db, $version) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION jobstate' . ($version ? " VERSION '$version'" : ''));
}

create('fresh');
$node->safe_psql('fresh', 'SELECT jobstate.install(f) FROM jobstate.family_names() f');
my $fresh = described('fresh');

for my $version (@released)
{
	# the library of today serves the schema of then
	(my $db = "updated_$version") =~ s/\W/_/g;
	create($db, $version);
	fill($node, $db);
	prepare_work($node, $db);
	my $before = facts($node, $db);
	is($node->safe_psql($db, 'SELECT * FROM jobstate.verify()'), '', "$version: this library serves that schema");

	# sessions that were at work before have plans, compiled functions and caches
	my $old = $node->background_psql($db, on_error_stop => 0);
	my @steps = (
		q{UPDATE app.item SET state = 2 WHERE id = 199},
		q{UPDATE app.item SET state = 1 WHERE id = 199},
		q{WITH j AS (SELECT id FROM jobstate.enqueue('old', 'a', '{}')) SELECT count(*) FROM j},
		q{SELECT jobstate.complete(id, token) FROM jobstate.claim('old', 'old', 1)},
		q{SELECT jobstate.store_incr('r6', 'steps') > 0},
		q{SELECT jobstate.ledger_mark('old', 'a') IS NOT NULL},
		q{SELECT sum(n) > 0 FROM jobstate.counts('jobstate.job')},
		q{SELECT count(*) FROM jobstate.verify()},
		q{SELECT count(*) > 0 FROM jobstate.metrics});
	my @first = map { $old->query_safe($_) } @steps;
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->query_safe($_) for @steps[ 6, 7 ];
	$old->query_safe('COMMIT');

	$before = facts($node, $db);
	$node->safe_psql($db, 'ALTER EXTENSION jobstate UPDATE');
	is(facts($node, $db), $before, "$version: all is as it was");
	is_deeply([ map { $old->query_safe($_) } @steps ], \@first, "$version: a session from before goes on");
	$old->quit;

	my ($out, $err);
	IPC::Run::run([ 'diff', $fresh, described($db) ], '>', \$out, '2>', \$err);
	is($out, '', "$version: fresh (<) and updated (>) are the same");

	end_prepared($node, $db, 'COMMIT');
	is($node->safe_psql($db, 'SELECT count(*) FROM jobstate.job WHERE kind = \'prepared\''), '1', "$version: what was prepared is committed");
	work_goes_on($node, $db, $version);
}

$node->stop;
done_testing();
