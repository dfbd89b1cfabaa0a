
# Random sessions on attached tables: after each round of them a recount agrees with
# what was counted, and nobody waited or failed because of counting.
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
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$node->start;

# A few seconds of each kind of rounds are the same in every run, as far as the
# sessions themselves go; another seed by hand: see test/oracle/main.py.
for my $kind (qw(alone apart together rebuilt))
{
	$node->safe_psql('postgres', "CREATE DATABASE $kind ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
	program_holds("rounds of sessions: $kind", 'oracle/main.py',
		'--seed', 1, '--seconds', 17, '--kind', $kind,
		'--dsn', $node->connstr($kind));
}

server_lives($node);

$node->stop;
done_testing();
