
# docs/uploads.md is what the database says: the diagram, the reference, the example.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/uploads.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION jobstate; SELECT jobstate.install('uploads')});

my ($diagram) = $docs =~ /```mermaid\n(.*?)```/s;
is($node->safe_psql('postgres', q{SELECT jobstate.mermaid('upload')}) . "\n", $diagram, 'the diagram is the machine');

# every function in the reference, with the names of its arguments in their order
my ($reference) = $docs =~ /^## Reference\n(.*?)^## /sm;
my %documented;
while ($reference =~ /`(upload_\w+)\(([^`]*)\)`/g)
{
	my ($name, $arguments) = ($1, $2);
	$documented{$name} = join ', ', map { (split)[0] } split /, /, $arguments;
}
my %there = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('postgres', q{
	SELECT proname, array_to_string(proargnames[1:pronargs], ', ')
	  FROM pg_proc
	 WHERE pronamespace = 'jobstate'::regnamespace AND proname ~ '^upload_'
	   AND obj_description(oid, 'pg_proc') !~ '^internal'});
is_deeply(\%documented, \%there, 'the reference has every function');

my %tables = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	 WHERE relnamespace = 'jobstate'::regnamespace AND relkind = 'r' AND relname ~ '^upload'});
my %described = map { $_ => 1 } $reference =~ /^\| `(upload(?:_\w+)?)` \|/gm;
is_deeply(\%described, \%tables, 'and every table');

# the example, on tables as an application might have them
$node->safe_psql('postgres', q{
	CREATE SCHEMA app;
	CREATE TABLE app.report_session (
		id bigint PRIMARY KEY, repo_id bigint, commit_sha text, state_id smallint DEFAULT 1);
	CREATE TABLE app.commit (
		repo_id bigint, commit_sha text, version bigint DEFAULT 0, PRIMARY KEY (repo_id, commit_sha));
	INSERT INTO app.commit VALUES (42, 'abc'), (43, 'abc');
	INSERT INTO app.report_session VALUES (7, 42, 'abc'), (8, 42, 'abc'), (9, 43, 'abc'), (10, 43, 'abc')});
my ($example) = $docs =~ /^## Your own table.*?\n(.*)/sm;
my ($out, $err) = ('', '');
for my $sql ($example =~ /```sql\n(.*?)```/sg)
{
	$node->psql('postgres', $sql, stdout => \my $o, stderr => \my $e, on_error_stop => 0);
	$out .= "$o\n";
	$err .= $e;
}
is(scalar(() = $err =~ /ERROR/g), 1, 'the example has one refusal');
like($err, qr/illegal state transition in relation "report_session"/, 'of the move that is said to be refused');
like($out, qr/^uploaded\|2$/m, 'it counts');
is($node->safe_psql('postgres', 'SELECT app.finish(9), app.finish(10)'), 'f|t', 'the last finisher is told');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'counts are exact');

done_testing();
