# Every function of the extension is called with values that nobody should give, by four
# roles, in transactions of every kind: no internal error, no crash, no drift, no leak.
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
$node->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 20");
$node->start;

# The calls are the same in every run; for others, JOBSTATE_FUZZ has what test/fuzz/main.py takes.
program_holds('rounds of calls', 'fuzz/main.py',
	split(' ', $ENV{JOBSTATE_FUZZ} || '--seed 1 --rounds 3 --calls 180'), '--dsn', $node->connstr('postgres'));

server_lives($node);

$node->stop;
done_testing();
