
# docs/queue.md is what the database says: the session, the diagram, the reference.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/queue.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
blocks_are_true($node, $docs);

my ($diagram) = $docs =~ /```mermaid\n(.*?)```/s;
is($node->safe_psql('postgres', q{SELECT jobstate.mermaid('job')}) . "\n", $diagram, 'the diagram is the machine');

# every form of every function: the names of its arguments, and of what it returns as columns
my ($reference) = $docs =~ /^## Reference\n(.*?)^## /sm;
my ($parts) = $reference =~ /^Parts of these[^:]*: (.*?)\n\n/ms;
my %part = map { $_ => 1 } $parts =~ /`(\w+)`/g;
my %documented;
while ($reference =~ /^\| `(\w+)\(([^`]*)\)` \| (.*?) ?\| /mg)
{
	my ($name, $arguments, $returned) = ($1, $2, $3);
	$arguments = join ', ', map { (split)[0] } split /, /, $arguments;
	$documented{"$name($arguments)"} = $returned =~ /(\(.*\))/ ? $1 : '';
}
my (%there, %part_there);
for (split /\n/, $node->safe_psql('postgres', q{
	SELECT p.proname, array_to_string(p.proargnames[1:p.pronargs], ', '),
	       coalesce('(' || (SELECT string_agg(a.name, ', ' ORDER BY a.nth)
	                          FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY a (name, mode, nth)
	                         WHERE a.mode IN ('o', 'b', 't')) || ')', '')
	  FROM pg_proc p
	 WHERE p.pronamespace = 'jobstate'::regnamespace
	   AND (p.oid IN (SELECT f.fn FROM jobstate.queue_functions() f)
	        OR p.proname ~ '^(queue_|job_)')
	   AND obj_description(p.oid, 'pg_proc') !~ '^internal'}))
{
	my ($name, $arguments, $columns) = split /\|/, $_, -1;
	if ($part{$name}) { $part_there{$name} = 1 }
	else { $there{"$name($arguments)"} = $columns }
}
is_deeply(\%documented, \%there, 'the reference has every function');
is_deeply(\%part, \%part_there, 'and every part');

my %relations = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_class
	 WHERE relnamespace = 'jobstate'::regnamespace AND relkind IN ('r', 'p', 'v')
	   AND relname ~ '^(job|jobs|job_waiting|job_kept|dead_letter|unique_job|queues|queue.*)$'});
my ($tables) = $reference =~ /^### Tables and views\n(.*?)^###/sm;
is_deeply({ map { $_ => 1 } $tables =~ /`(\w+)`(?=.*?\|)/g }, \%relations, 'and every relation');

# every setting, with its default
for my $table ('queue', 'queue_ring')
{
	my $columns = $node->safe_psql('postgres', qq{
		SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute
		 WHERE attrelid = 'jobstate.$table'::regclass AND attnum > 0
		   AND attname NOT IN ('queue', 'paused_at', 'created_at', 'singleton', 'since')});
	my $of = $table eq 'queue' ? 'a queue' : 'the ring';
	my ($settings) = $docs =~ /^\| setting of $of \|.*?\n(.*?)\n\n/sm;
	my @names = map { /^\| ((?:`\w+`(?:, )?)+) \|/ ? $1 =~ /`(\w+)`/g : () } split /\n/, $settings;
	is(join(' ', sort @names), $columns, "every setting of $of");
}

$node->stop;
done_testing();
