
# Every form of dump and restore brings everything back, families and work under way included;
# 010 has who may do it.
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
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION jobstate');
fill($node, 'source');

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $source = $node->connstr('source');
my $expected = facts($node, 'source');
my $n = 0;

sub new_database
{
	my (%how) = @_;
	my $db = 'copy_' . ++$n;
	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 " . ($how{options} // ''));
	return $db;
}

sub restored
{
	my ($db, $how) = @_;
	is(facts($node, $db), $expected, "$how: all is there");
	is($node->safe_psql($db, 'SELECT * FROM jobstate.verify()'), '', "$how: and nothing has drifted");
	$node->safe_psql($db, 'CALL jobstate.maintain()');
	is($node->safe_psql($db, 'SELECT count(*) FROM jobstate.attachments WHERE NOT (counted AND watched)'), '0', "$how: maintain() counts all");
	is($node->safe_psql($db, 'SELECT * FROM jobstate.verify()'), '', "$how: and counts right");
}

sub dump_source
{
	my ($name, @options) = @_;
	$node->command_ok([ 'pg_dump', @options, '-f', "$tmp/$name", '-d', $source ], "pg_dump @options");
	return "$tmp/$name";
}

sub load
{
	my ($db, $file, @options) = @_;
	$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', @options, '-f', $file, '-d', $node->connstr($db) ], "psql @options of $file");
}

sub pg_restore
{
	my ($db, $file, @options) = @_;
	$node->command_ok([ 'pg_restore', '-e', @options, '-d', $node->connstr($db), $file ], "pg_restore @options of $file");
}

my $custom = dump_source('custom', '-Fc');
my $folder = dump_source('folder', '-Fd', '-j', '3');
my $schema = dump_source('schema.sql', '-s');

my $db = new_database();
pg_restore($db, $folder, '-j', '3', '--no-owner', '--no-privileges');
restored($db, 'a folder, in parallel');
work_goes_on($node, $db, 'a folder, in parallel');

$db = new_database();
pg_restore($db, $custom, '--single-transaction');
restored($db, 'one transaction');

$db = new_database();
pg_restore($db, $custom, "--section=$_") for qw(pre-data data post-data);
restored($db, 'in sections');

# Over what is there, whatever has become of it. The server itself complains of a partition's primary key
# that it is to drop, and that a database has it once already; nothing else is wrong.
$node->safe_psql($db, q{DELETE FROM app.item; SELECT jobstate.detach('app."Mixed Case"'); DROP TABLE jobstate.upload_error});
my ($out, $err);
IPC::Run::run([ 'pg_restore', '--clean', '--if-exists', '-d', $node->connstr($db), $custom ], '>', \$out, '2>', \$err);
is(join("\n", grep { /ERROR/ && !/cannot drop inherited constraint/ } split /\n/, $err), '', 'over itself: no error');
restored($db, 'over itself');

# data alone
$db = new_database();
load($db, $schema);
my $data = dump_source('data', '-a', '-Fc');
pg_restore($db, $data, '--disable-triggers', '-j', '3');
restored($db, 'schema, then data in parallel with triggers disabled');

$db = new_database();
load($db, $schema);
load($db, dump_source('inserts.sql', '-a', '--disable-triggers', '--rows-per-insert=50'), '-1');
restored($db, 'schema, then inserts in one transaction with triggers disabled');

# text sorts otherwise, and has other bytes
$db = new_database(options => q{ENCODING 'LATIN1' LOCALE 'C'});
pg_restore($db, $custom);
restored($db, 'another encoding');

# A dump of a released version comes back into this one, whose functions meet the tables of then until
# install() is called.
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION jobstate; SELECT jobstate.install(f) FROM jobstate.family_names() f');
sub described
{
	my ($db) = @_;
	$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), '-f', 'test/schema.sql', '-o', "$tmp/$db.txt" ], "$db is described");
	return "$tmp/$db.txt";
}

for my $version (sort map { /jobstate--(.+)\.sql$/ } glob 'sql/released/*.sql')
{
	(my $old = "released_$version") =~ s/\W/_/g;
	$node->safe_psql('postgres', "CREATE DATABASE $old");
	$node->safe_psql($old, "CREATE EXTENSION jobstate VERSION '$version'");
	fill($node, $old);
	$expected = facts($node, $old);
	$source = $node->connstr($old);
	$db = new_database();
	pg_restore($db, dump_source($old, '-Fc'));
	restored($db, "from $version");
	$node->safe_psql($db, 'SELECT jobstate.install(f) FROM jobstate.family_names() f');
	work_goes_on($node, $db, "from $version");
	IPC::Run::run([ 'diff', described('fresh'), described($db) ], '>', \$out);
	is($out, '', "from $version: install() makes the families what they are in a new database");
}

# A copy of a database has its counters, and goes its own way.
$node->safe_psql('postgres', "CREATE DATABASE twin TEMPLATE $db");
is($node->safe_psql('twin', 'SELECT count(*) FROM jobstate.attachments WHERE NOT (counted AND watched)'), '0', 'a copy: it is counted');
$node->safe_psql('twin', q{UPDATE app.item SET state = 2 WHERE id = 299; SELECT jobstate.fold()});
is($node->safe_psql($_, 'SELECT * FROM jobstate.verify()'), '', "a copy and the original: $_ is right") for 'twin', $db;

# Gone with all that it made, and made again, under the eyes of a session that knew it.
my $session = $node->background_psql('twin', on_error_stop => 0);
$session->query_safe(q{UPDATE app.item SET state = 1 WHERE id = 299});
$session->query_safe(q{SELECT jobstate.complete(id, token) FROM jobstate.claim('mail', 'worker', 1)});
$node->safe_psql('twin', q{SET client_min_messages = error; DROP EXTENSION jobstate CASCADE});
$session->query_safe(q{UPDATE app.item SET state = -4 WHERE id = 299});
$node->safe_psql('twin', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('phase', '{"a": 1, "b": 2, "c": 3, "d": -4}', '{d -> a}');
	SELECT jobstate.install('queue'), jobstate.attach('app.item', 'phase', 'state', '{name}');
	SELECT jobstate.enqueue('mail', 'new')});
$session->query_safe(q{UPDATE app.item SET state = 1 WHERE id = 299});
is($session->query_safe(q{SELECT kind FROM jobstate.claim('mail', 'worker', 10)}), 'new', 'a session from before claims from the new queue');
like($session->query(q{UPDATE app.item SET state = 2 WHERE id = 299}), qr/^$/, 'the guard');
$session->quit;
is($node->safe_psql('twin', q{SELECT state FROM app.item WHERE id = 299}), '1', 'is the new machine\'s');
is($node->safe_psql('twin', 'SELECT * FROM jobstate.verify()'), '', 'and counts are right');

$node->stop;
done_testing();
