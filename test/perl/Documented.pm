
# What a page of documentation says, held against a database.
package Documented;
use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use Test::More;

our @EXPORT = qw(blocks_are_true);

# Every ```sql block that a ```text block follows at once is run, all of them in one psql session,
# statements that fail included, and what psql prints is compared as it is: nothing there may vary.
sub blocks_are_true
{
	my ($node, $page) = @_;
	my (@sql, @expected);
	while ($page =~ /^```sql\n(.*?)^```\n\n?```text\n(.*?)^```$/msg)
	{
		push @sql, $1;
		push @expected, $2;
	}
	cmp_ok(scalar @sql, '>=', 5, 'the page has a session');

	my $script = join '', map { "$sql[$_]\n\\echo ---- end of block $_\n" } 0 .. $#sql;
	my $printed;
	IPC::Run::run([ 'psql', '-X', '-v', 'SHOW_CONTEXT=never', '-d', $node->connstr('postgres') ], '<', \$script, '>&', \$printed);
	my @printed = split /---- end of block \d+\n/, $printed, -1;
	for my $i (0 .. $#sql)
	{
		my ($first) = $sql[$i] =~ /^(.{1,60})/;
		is(trimmed($printed[$i]), trimmed($expected[$i]), "block $i: $first");
	}
}

# An editor may take away what psql leaves at the end of a line, or of a block.
sub trimmed
{
	my $text = shift // '';
	$text =~ s/[ \t]+$//mg;
	$text =~ s/\n+\z/\n/;
	return $text;
}

1;
