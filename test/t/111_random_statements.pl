# Random statements over attached tables by several sessions: after each batch every count is that
# of the rows, parents are what their children say, and no move passed that the machine has not.
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

# What the sessions try is the same in every run; for others, JOBSTATE_STATEMENTS has what test/fuzz/statements.py takes.
program_holds('rounds of statements', 'fuzz/statements.py',
	split(' ', $ENV{JOBSTATE_STATEMENTS} || '--seed 1 --rounds 14'), '--dsn', $node->connstr('postgres'));

server_lives($node);

$node->stop;
done_testing();
