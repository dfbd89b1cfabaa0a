
# pg_upgrade to the server that JOBSTATE_UPGRADE_TO names by its pg_config, or to one that test/server keeps:
# counters, leases and everything else are there at once, and the work goes on. JOBSTATE_UPGRADE_MODES
# says how: copy, link.
use strict;
use warnings;
use Cwd;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Families;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $released = '0.1.0';

sub run_quietly
{
	my ($what, @command) = @_;
	my $said;
	IPC::Run::run(\@command, '<', '/dev/null', '>&', \$said) or die "could not $what: $said";
	chomp $said;
	return $said;
}

my ($here) = `pg_config --version` =~ /(\d+)/;
my $oldbin = `pg_config --bindir`;
chomp $oldbin;

# Servers from 15.20 and 17.12 on stamp their columns with an option that those before refuse.
sub stamps
{
	my ($bin) = @_;
	return slurp_file("$bin/postgres") =~ /pg_attver/;
}

# The server to go to: a newer one, built for this test or kept from another
sub newer_server
{
	my ($bin) = @_;
	return $ENV{JOBSTATE_UPGRADE_TO} if $ENV{JOBSTATE_UPGRADE_TO};
	my $cache = $ENV{JOBSTATE_CACHE} // '/var/cache/jobstate';
	my @newer = grep { -x && /\/(\d+)(?:-assert)?\/bin/ && $1 > $here } sort glob "$cache/*/bin/pg_config";
	my $stamps = stamps($bin);
	return (grep { !$stamps || stamps(s/\/pg_config$//r) } @newer)[0];
}

my $pg_config = newer_server($oldbin) or plan skip_all => 'there is no newer server to upgrade to';

# A copy of that server, with the extension as this tree has it.
sub install_there
{
	my $private = do { local $ENV{PG_CONFIG} = $pg_config; run_quietly('copy the server', 'test/private-install', "$tmp/newer") };
	my $tree = "$tmp/tree";
	mkdir $tree or die "$tree: $!";
	run_quietly('copy the tree', 'sh', '-c', "tar -cf - --exclude=./tmp_check --exclude=./test/out . | tar -xf - -C '$tree'");
	delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
	run_quietly("make $_", 'make', '-s', '-C', $tree, "PG_CONFIG=$private", $_) for qw(clean all install);
	(my $bin = $private) =~ s/\/pg_config$//;
	return $bin;
}

my $newbin = install_there();
(my $newpath = $newbin) =~ s/\/bin$//;
my ($there) = run_quietly('ask the version', "$newbin/pg_config", '--version') =~ /(\d+)/;
my $settings = "fsync = off\njobstate.auto_maintain = off\nmax_prepared_transactions = 5";

sub make_old
{
	my ($mode) = @_;
	my $node = PostgreSQL::Test::Cluster->new("old_$mode");
	$node->init;
	$node->append_conf('postgresql.conf', $settings);
	$node->start;
	for my $db (qw(newest released))
	{
		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, 'CREATE EXTENSION jobstate' . ($db eq 'released' ? " VERSION '$released'" : ''));
		fill($node, $db);
	}
	return $node;
}

sub make_new
{
	my ($mode) = @_;
	my $node = PostgreSQL::Test::Cluster->new("new_$mode", install_path => $newpath);
	$node->init($there >= 18 ? (extra => ['--no-data-checksums']) : ());
	$node->append_conf('postgresql.conf', $settings);
	return $node;
}

# Where pg_upgrade works, it leaves logs; what they say of a failure is shown.
sub pg_upgrade
{
	my ($old, $new, @options) = @_;
	my $before = getcwd();
	chdir $tmp;
	my $said = '';
	my $ok = IPC::Run::run([ "$newbin/pg_upgrade", '-b', $oldbin, '-B', $newbin, '-d', $old->data_dir, '-D', $new->data_dir,
		'-s', $new->host, '-p', $old->port, '-P', $new->port, @options ], '<', '/dev/null', '>&', \$said);
	chdir $before;
	return ($ok, $said);
}

sub counted { $_[0]->safe_psql($_[1], 'SELECT count(*) FROM jobstate.attachments WHERE counted AND watched') }

sub described
{
	my ($node, $db) = @_;
	my $out = '';
	IPC::Run::run([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), '-f', 'test/schema.sql' ], '>', "$tmp/$db.txt") or die;
	return "$tmp/$db.txt";
}

sub upgrade
{
	my ($mode) = @_;
	my ($old, $new) = (make_old($mode), make_new($mode));
	prepare_work($old, 'newest');
	$old->stop;
	my ($ok, $said) = pg_upgrade($old, $new, '--check');
	like($said, qr/prepared transactions/, "$mode: pg_upgrade refuses while a transaction is prepared");

	$old->start;
	end_prepared($old, 'newest', 'COMMIT');
	my %before = map { $_ => facts($old, $_) } qw(newest released);
	my %counted = map { $_ => counted($old, $_) } qw(newest released);
	$old->stop;
	($ok, $said) = pg_upgrade($old, $new, $mode eq 'link' ? '--link' : ());
	ok($ok, "$mode: pg_upgrade from $here to $there") or diag($said);

	$new->start;
	for my $db (qw(newest released))
	{
		is(facts($new, $db), $before{$db}, "$mode, $db: all is there");
		is(counted($new, $db), $counted{$db}, "$mode, $db: the counters are there, nothing is counted again");
		is($new->safe_psql($db, 'SELECT * FROM jobstate.verify()'), '', "$mode, $db: and are right");
	}
	$new->safe_psql('released', 'ALTER EXTENSION jobstate UPDATE');
	$new->safe_psql('postgres', 'CREATE DATABASE fresh');
	$new->safe_psql('fresh', 'CREATE EXTENSION jobstate; SELECT jobstate.install(f) FROM jobstate.family_names() f');
	for my $db (qw(newest released))
	{
		my $difference;
		IPC::Run::run([ 'diff', described($new, 'fresh'), described($new, $db) ], '>', \$difference);
		is($difference, '', "$mode, $db: the extension is what a new one is");
		work_goes_on($new, $db, "$mode, $db");
	}
	$new->stop;
}

upgrade($_) for split ' ', $ENV{JOBSTATE_UPGRADE_MODES} // 'copy';
done_testing();
