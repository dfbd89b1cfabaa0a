# Programs in Python that a test runs beside its server.
package Program;
use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(need_python program_holds server_lives);

my $python = $ENV{PYTHON} || 'python3';

# Skips the whole test where there is no Python with psycopg.
sub need_python
{
	plan skip_all => "no $python with psycopg 3 here"
	  if system("$python -c 'import psycopg' 2>/dev/null") != 0;
}

# Runs a program of test/, which must end well; what it printed is told aloud if it does not.
sub program_holds
{
	my ($name, $program, @arguments) = @_;
	my ($out, $err);
	local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
	IPC::Run::run([ $python, "$FindBin::Bin/../$program", @arguments ], '>', \$out, '2>', \$err);
	my $status = $?;
	is($status, 0, $name);
	note($out);
	diag($out . $err) if $status;
}

# Nothing crashed on the way.
sub server_lives
{
	my ($node) = @_;
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'the server lives');
}

1;
