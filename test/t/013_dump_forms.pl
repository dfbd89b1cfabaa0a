
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

$node->stop;
done_testing();
