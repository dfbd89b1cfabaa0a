
# docs/applies.md is what the database says: the session and the reference.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/applies.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
blocks_are_true($node, $docs);

# every function in the reference, with the names of its arguments and what it returns
my ($reference) = $docs =~ /^## Reference\n(.*?)^## /sm;
my %documented;
while ($reference =~ /^\| `(\w+)\(([^`]*)\)` \| (.*?) \| /mg)
{
	my ($name, $arguments, $returned) = ($1, $2, $3);
	$arguments = join ', ', map { (split)[0] } split /, /, $arguments;
	$documented{"$name($arguments)"} = $returned;
}
my %there = map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('postgres', q{
	SELECT format('%s(%s)', p.proname, array_to_string(p.proargnames[1:p.pronargs], ', ')),
	       coalesce('(' || (SELECT string_agg(a.name, ', ' ORDER BY a.nth)
	                          FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY a (name, mode, nth)
	                         WHERE a.mode IN ('o', 'b', 't')) || ')', p.prorettype::regtype::text)
	  FROM pg_proc p
	 WHERE p.pronamespace = 'jobstate'::regnamespace
	   AND (p.proname ~ '^(apply|operation|task)_' OR p.proname IN ('fold_states', 'fold_rollout'))
	   AND obj_description(p.oid, 'pg_proc') !~ '^internal'});
is_deeply(\%documented, \%there, 'the reference has every function');

my %tables = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	 WHERE relnamespace = 'jobstate'::regnamespace AND relkind = 'r' AND relname ~ '^(apply|operation|task)'});
is_deeply({ map { $_ => 1 } $reference =~ /^\| `(\w+)` \|/gm }, \%tables, 'and every table');

# the figures that are said are those of the policy
is($node->safe_psql('postgres', 'SELECT max_retries, retryable_for, task_grace, quiet FROM jobstate.apply_policy'),
	'5|1 day|00:05:00|00:10:00', 'the policy is what is said');
is($node->safe_psql('postgres', q{SELECT machine, count(*) FROM jobstate.state WHERE machine IN ('apply', 'operation', 'apply_task') GROUP BY 1 ORDER BY 1}),
	"apply|26\napply_task|17\noperation|26", 'and so are the numbers of states');
is($node->safe_psql('postgres', 'SELECT * FROM jobstate.verify()'), '', 'counts are exact');

done_testing();
