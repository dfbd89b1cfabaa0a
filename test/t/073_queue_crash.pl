# Workers, backends and the server are killed at any instant: what was acknowledged to a
# worker holds, every job completes exactly once, and a poison job ends as a dead letter.
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
$node->init(allows_streaming => 'logical', extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "fsync = off\nmax_connections = 50\nmax_prepared_transactions = 20");
$node->start;
plan skip_all => 'no test_decoding here'
  if $node->psql('postgres', q{SELECT pg_create_logical_replication_slot('probe', 'test_decoding', true)}) != 0;

# Ten crashes; for more, JOBSTATE_CRASH has what test/oracle/crash.py takes. It kills and
# starts the server by itself.
program_holds('rounds of crashes', 'oracle/crash.py',
	split(' ', $ENV{JOBSTATE_CRASH} || '--seed 1 --cycles 10'),
	'--dsn', $node->connstr('postgres'),
	'--pgdata', $node->data_dir, '--bindir', $node->config_data('--bindir'));

# no backend of ours crashed by itself
unlike(slurp_file($_), qr/PANIC|TRAP|signal (6|11)/, "nothing else in $_")
  for $node->logfile, $node->data_dir . '/crash.log';

# the server that runs by now is not the one that this node started
$node->_update_pid(1);
$node->stop;
done_testing();
