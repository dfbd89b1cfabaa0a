
# docs/ledger.md is what the database says: the session, the diagrams, the reference.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/ledger.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'jobstate.auto_maintain = off');
$node->start;
blocks_are_true($node, $docs);

my @diagrams = $docs =~ /```mermaid\n(.*?)```/sg;
for my $machine ('ledger', 'ledger_run', 'schedule')
{
	is($node->safe_psql('postgres', "SELECT jobstate.mermaid('$machine')") . "\n", shift @diagrams, "the diagram is the machine $machine");
}

# every function: the names of its arguments, and of what it returns as columns
my ($reference) = $docs =~ /^## Reference\n(.*?)^## /sm;
my %documented;
while ($reference =~ /^\| `((?:ledger|schedule)_\w+)\(([^`]*)\)` \| (.*?) ?\| /mg)
{
	my ($name, $arguments, $returned) = ($1, $2, $3);
	$arguments = join ', ', map { (split)[0] } split /, /, $arguments;
	$documented{"$name($arguments)"} = $returned =~ /(\(.*\))/ ? $1 : '';
}
my %there = map { my @f = split /\|/, $_, -1; ("$f[0]($f[1])" => $f[2]) } split /\n/, $node->safe_psql('postgres', q{
	SELECT p.proname, array_to_string(p.proargnames[1:p.pronargs], ', '),
	       coalesce('(' || (SELECT string_agg(a.name, ', ' ORDER BY a.nth)
	                          FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY a (name, mode, nth)
	                         WHERE a.mode IN ('o', 'b', 't')) || ')', '')
	  FROM pg_proc p
	 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.proname ~ '^(ledger|schedule)_'
	   AND obj_description(p.oid, 'pg_proc') !~ '^internal'});
is_deeply(\%documented, \%there, 'the reference has every function');

my %tables = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	 WHERE relnamespace = 'jobstate'::regnamespace AND relkind IN ('r', 'v') AND relname ~ '^(ledger|schedule)'});
my ($tables) = $reference =~ /^### Tables\n(.*?)^###/sm;
is_deeply({ map { $_ => 1 } $tables =~ /^\| `(\w+)` \|/gm }, \%tables, 'and every table');

# every setting, with its default
my %settings = $reference =~ /^\| `(interval|lease|max_failures|cap|budget)` \| (\S+(?: s)?) \|/gm;
is($node->safe_psql('postgres', q{SELECT jobstate.ledger_define('defaults');
	SELECT concat_ws(', ', extract(epoch FROM "interval")::int || ' s', extract(epoch FROM lease)::int || ' s', max_failures, cap,
	                 extract(epoch FROM budget)::int || ' s') FROM jobstate.ledger_processor WHERE processor = 'defaults'}),
	"\n" . join(', ', @settings{qw(interval lease max_failures cap budget)}), 'and every default');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'counts are exact');

$node->stop;
done_testing();
