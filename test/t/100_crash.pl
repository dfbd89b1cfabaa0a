# All families at once, and the server killed with -9 at random instants: whole, in part, or
# its background worker. After each recovery counts, rollups and derived states agree with
# what the clients wrote down, and in the end everything is brought to an end.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Program;
use Test::More;

need_python();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf',
	"fsync = off\nfull_page_writes = on\nmax_connections = 50\nmax_prepared_transactions = 40\nrestart_after_crash = on");
$node->start;

# Ten crashes; for more, JOBSTATE_CRASH has what test/oracle/crash_all.py takes. It kills
# and starts the server by itself.
program_holds('rounds of crashes', 'oracle/crash_all.py',
	split(' ', $ENV{JOBSTATE_CRASH} || '--seed 1 --cycles 10 --seconds 0.7'),
	'--dsn', $node->connstr('postgres'),
	'--pgdata', $node->data_dir, '--bindir', $node->config_data('--bindir'));

# no process of the server crashed by itself
for my $log (grep { -e } $node->logfile, $node->data_dir . '/crash.log')
{
	unlike(slurp_file($log), qr/PANIC|TRAP|signal (6|11)/, "nothing else in $log");
}

# the server that runs by now may not be the one that this node started
$node->_update_pid(1);
$node->stop;
done_testing();
