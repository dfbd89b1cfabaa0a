# Statements of all kinds in one session: what it holds of memory, locks and files stays what it was, and the
# server's log tells of no reference that was left behind. `make leaks` does a million.
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
$node->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 5\nlog_min_messages = warning");
$node->start;

program_holds('nothing has grown', 'leaks/main.py',
	split(' ', $ENV{JOBSTATE_LEAKS} || '--statements 20000 --warm 8'), '--dsn', $node->connstr('postgres'));

server_lives($node);
unlike(slurp_file($node->logfile), qr/WARNING:.*(?:leak|not closed|problem in|write past)/, 'nothing was left open');

$node->stop;
done_testing();
