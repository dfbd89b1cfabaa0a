
# docs/store.md is what the database says: the session, the diagram, the reference.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/store.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
blocks_are_true($node, $docs);

my ($diagram) = $docs =~ /```mermaid\n(.*?)```/s;
is($node->safe_psql('postgres', q{SELECT jobstate.mermaid('store')}) . "\n", $diagram, 'the diagram is the machine');

# every function in the reference, with the names of its arguments and of the columns that it returns
my ($reference) = $docs =~ /^## Reference\n(.*?)^## /sm;
my %documented;
while ($reference =~ /^\| `(store_\w+)\(([^`]*)\)` \| (.*?) ?\| /mg)
{
	my ($name, $arguments, $returned) = ($1, $2, $3);
	$arguments = join ', ', map { (split)[0] } split /, /, $arguments;
	$documented{"$name($arguments)"} = $returned =~ /(\(.*\))/ ? $1 : '';
}
my %there;
for (split /\n/, $node->safe_psql('postgres', q{
	SELECT p.proname, array_to_string(p.proargnames[1:p.pronargs], ', '),
	       coalesce('(' || (SELECT string_agg(a.name, ', ' ORDER BY a.nth)
	                          FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY a (name, mode, nth)
	                         WHERE a.mode IN ('o', 'b', 't')) || ')', '')
	  FROM pg_proc p
	 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.proname ~ '^store_'
	   AND obj_description(p.oid, 'pg_proc') !~ '^internal'}))
{
	my ($name, $arguments, $columns) = split /\|/, $_, -1;
	$there{"$name($arguments)"} = $columns;
}
is_deeply(\%documented, \%there, 'the reference has every function');

my %relations = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	 WHERE relnamespace = 'jobstate'::regnamespace AND relkind IN ('r', 'v') AND relname ~ '^store'});
is_deeply({ map { $_ => 1 } $reference =~ /^\| `(store(?:_\w+)?)` \|/gm }, \%relations, 'and every relation');

# the fields that are listed are those that are checked: each refuses an array
my ($fields) = $reference =~ /^### Fields\n(.*?)^###/sm;
my %listed = map { $_ => 1 } map { /^\| ((?:`\w+`(?:, )?)+) \|/ ? $1 =~ /`(\w+)`/g : () } split /\n/, $fields;
delete $listed{id};
my $source = slurp_file('src/storefields.c');
my ($members) = $source =~ /record_members\[\] = \{\n(.*?)\n\};/s;
my %checked = map { $_ => 1 } grep { $_ ne 'status' } $members =~ /\{"(\w+)"/g;
is_deeply(\%listed, \%checked, 'the fields that are listed are those that are checked');
for my $field (sort keys %listed)
{
	my (undef, undef, $said) = $node->psql('postgres',
		qq{\\set VERBOSITY verbose\nINSERT INTO jobstate.store (id, fields) VALUES ('x', '{"$field": [1]}')});
	like($said, qr/23514: invalid field "$field"/, "$field is no array");
}

$node->stop;
done_testing();
