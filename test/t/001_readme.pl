
# README.md is true: its session, its diagram, its reference, the files it names.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file('README.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

blocks_are_true($node, $readme);

# the diagram
$node->safe_psql('postgres', q{SELECT jobstate.install('uploads')});
my ($diagram) = $readme =~ /^```mermaid\n(.*?)^```$/ms;
is($node->safe_psql('postgres', q{SELECT jobstate.mermaid('upload')}) . "\n", $diagram, 'the diagram is the machine');

# the functions of the kernel, with their arguments and what they return
my %documented;
while ($readme =~ /^\| `(\w+)\(([^`]*)\)` \| (?:`([^`]*)`)? ?\|/mg)
{
	push @{ $documented{$1} }, "($2) " . ($3 // 'void');
}
my ($parts) = $readme =~ /^Parts of these[^:]*: (.*?)\n\n/ms;
my %part = map { $_ => 1 } $parts =~ /`(\w+)`/g;
my %family = map { $_ => 1 } slurp_file('docs/uploads.md') =~ /`(upload_\w+)\(/g;
my ($store) = slurp_file('docs/store.md') =~ /^## Reference\n(.*?)^## /ms;
$family{$_} = 1 for $store =~ /^\| `(\w+)\(/mg;
my ($ledger) = slurp_file('docs/ledger.md') =~ /^## Reference\n(.*?)^## /ms;
$family{$_} = 1 for $ledger =~ /^\| `(\w+)\(/mg;
my ($applies) = slurp_file('docs/applies.md') =~ /^## Reference\n(.*?)^## /ms;
$family{$_} = 1 for $applies =~ /^\| `(\w+)\(/mg;
my ($queue) = slurp_file('docs/queue.md') =~ /^## Reference\n(.*?)^## /ms;
my ($queue_parts) = $queue =~ /^Parts of these[^:]*: (.*?)\n\n/ms;
$family{$_} = 1 for $queue =~ /^\| `(\w+)\(/mg, $queue_parts =~ /`(\w+)`/g;

# what a user may call: the database's owner or everybody has the right to
my (%there, %names);
for (split /\n/, $node->safe_psql('postgres', q{
	SELECT p.proname || '|' || pg_get_function_arguments(p.oid) || '|' || coalesce(pg_get_function_result(p.oid), 'call')
	  FROM pg_proc p
	 WHERE p.pronamespace = 'jobstate'::regnamespace
	   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
	   AND coalesce(obj_description(p.oid, 'pg_proc'), '') !~ '^internal'
	   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
	                WHERE a.privilege_type = 'EXECUTE' AND a.grantee IN (0, 'pg_database_owner'::regrole))}))
{
	my ($name, $arguments, $result) = split /\|/, $_;
	$arguments =~ s/ DEFAULT ('[^']*'|[^,:]+)(::[\w\[\]]+)?/ = \L$1/g;
	$result =~ s/^(TABLE|SETOF)/\L$1/;
	$names{$name} = 1;
	push @{ $there{$name} }, "($arguments) $result" unless $part{$name} || $family{$name};
}
@$_ = sort @$_ for values %documented, values %there;
is_deeply(\%documented, \%there, 'the reference has every function as it is');
is_deeply([ sort keys %names ], [ sort keys %documented, keys %part, keys %family ],
	'and names none that is not there');

# views, tables, settings
sub first_column
{
	my $heading = shift;
	my ($section) = $readme =~ /^### \Q$heading\E\n(.*?)^##/ms;
	return [ sort $section =~ /^\| `([\w.]+)` \|/mg ];
}
is_deeply(first_column('Views'), [ split /\n/, $node->safe_psql('postgres',
	q{SELECT viewname FROM pg_views WHERE schemaname = 'jobstate' ORDER BY viewname COLLATE "C"}) ], 'views');
is_deeply(first_column('Settings'), [ split /\n/, $node->safe_psql('postgres',
	q{LOAD 'jobstate'; SELECT name FROM pg_settings WHERE name LIKE 'jobstate.%' ORDER BY name COLLATE "C"}) ], 'settings');

# SQLSTATEs: those that the sources raise
my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);
my (%by_macro, %by_name);
for (split /\n/, slurp_file("$sharedir/errcodes.txt"))
{
	my ($state, $macro, $name) = /^(\w{5})\s+[EWS]\s+(ERRCODE_\w+)(?:\s+(\w+))?/ or next;
	$by_macro{$macro} = $state;
	$by_name{$name} //= $state if defined $name;	# a name may stand for two; the server takes the first
}
my %raised;
for (map { slurp_file($_) } glob 'src/*.c')
{
	$raised{ $by_macro{$_} // $_ } = 1 for /errcode\((ERRCODE_\w+)\)/g;
}
for (map { slurp_file($_) } glob 'sql/[0-9]*.sql')
{
	$raised{ $by_name{$_} // $_ } = 1 for /RAISE ([a-z_]+) USING/g, /ERRCODE = '(\w+)'/g;
}
is_deeply(first_column('SQLSTATEs'), [ sort keys %raised ], 'SQLSTATEs');

# files that are named or linked
for my $page ('README.md', 'docs/decisions.md', 'docs/architecture.md', 'docs/queue.md', 'docs/store.md', 'docs/ledger.md', 'docs/applies.md')
{
	my $text = slurp_file($page);
	my %file = map { $_ => 1 } $text =~ m{(?<![\w/])((?:test|docs|examples|src|sql)/[\w./-]*\w)}g;
	my @missing = grep { !-e $_ } sort keys %file;
	is("@missing", '', "$page names no file that is not there");
}

done_testing();
