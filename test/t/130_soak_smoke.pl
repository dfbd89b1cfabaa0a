
# The soak (make soak) in seconds: it runs through, finds nothing, and draws its plot; and where nobody maintains
# anything it says that the log grows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';

# Runs the soak beside a new server; what it prints, and its exit code
sub soak
{
	my ($name, @options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', "fsync = off\nlog_statement = none\nmax_connections = 60");
	$node->start;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
	my $out = PostgreSQL::Test::Utils::tempdir();
	my $said = '';
	my $code = IPC::Run::run(
		[ $python, 'test/soak/main.py', '--out', $out, '--given-server', '--minutes', 0.1, '--slice', 0.5, '--settle', 0,
			'--flood', 3, @options ],
		'>', \$said, '2>&1') ? 0 : 1;
	note($said);
	note(slurp_file("$out/errors")) if -e "$out/errors";
	$node->stop('immediate');
	return ($code, $said, $out);
}

my ($code, $said, $out) = soak('maintained', '--slack-mb', 64);    # seconds tell nothing of growth
is($code, 0, 'a soak that finds nothing');
like($said, qr/ [1-9][\d,]* calls, 0 failures/, 'it has called');
like(slurp_file("$out/soak.md"), qr/queue: claim 10/, 'it has written its tables');
like(slurp_file("$out/soak.svg"), qr/<svg.*polyline.*<\/svg>/s, 'and its plot');

($code, $said) = soak('neglected', '--slack-mb', 4, '--maintain', 0, '--keep-snapshot', 0);
is($code, 1, 'a soak without maintenance fails');
like($said, qr/grows: log segments/, 'because the log grows');

done_testing();
