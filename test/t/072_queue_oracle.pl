# Random verbs of the queue by many clients on a tiny ring: after each round the history
# of commits agrees with counts, rollups, journal and rows, and no job is lost or hidden.
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

# What the clients try is the same in every run; for others, JOBSTATE_JOBS has what test/oracle/jobs.py takes.
program_holds('rounds of clients', 'oracle/jobs.py',
	split(' ', $ENV{JOBSTATE_JOBS} || '--seed 1 --seconds 65'), '--dsn', $node->connstr('postgres'));

server_lives($node);

$node->stop;
done_testing();
