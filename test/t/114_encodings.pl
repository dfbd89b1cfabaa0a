# Group values in databases of other encodings: what is written is found again, after folds
# too, and in SQL_ASCII whatever bytes there are.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;

# Bytes of values, as each encoding has them; a backslash or comma is no byte of another character in any.
my %values = (
	LATIN1 => [ '', '61', 'e9', 'e92c5c', '5c4e', 'ff', 'a0' ],
	EUC_JP => [ '', '61', 'a4a2', 'a4a22c5ca4a4', '8eb1', '8fb0a1', '5c4e' ],
	SQL_ASCII => [ '', '61', 'ff', 'fe5c', '802c80', 'c328', 'eda080', 'f4908080', '5c4e', '0102' ],
);
for my $encoding (sort keys %values)
{
	my $name = lc $encoding;
	$node->safe_psql('postgres', "CREATE DATABASE $name ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
	my $list = join ', ', map { "convert_from('\\x$_', '$encoding')" } @{ $values{$encoding} };
	my $n = @{ $values{$encoding} };
	$node->safe_psql($name, q(
		CREATE EXTENSION jobstate;
		SELECT jobstate.define_machine('m', '{"a": 1, "b": 2}', '{a -> b}');
		CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text DEFAULT 'a', g text, h text);
		SELECT jobstate.attach('t', 'm', 'state', '{g,h}');
	));
	for my $client ($encoding, 'SQL_ASCII')
	{
		$node->safe_psql($name, qq(
			SET client_encoding = '$client';
			INSERT INTO t (g, h) SELECT a, b FROM unnest(ARRAY[$list]) a, unnest(ARRAY[$list, NULL]) b;
			SELECT jobstate.fold();
			UPDATE t SET state = 'b' WHERE id % 2 = 0;
		));
	}
	is($node->safe_psql($name, q(SELECT count(*) FROM jobstate.verify())), '0', "$encoding: no drift");
	is($node->safe_psql($name, q(
		SELECT count(DISTINCT group_key), sum(n) FROM jobstate.counts('t') WHERE n > 0)),
		$n * ($n + 1) . '|' . 2 * $n * ($n + 1), "$encoding: every value is a group");
	is($node->safe_psql($name, q(
		SELECT count(*) FROM (SELECT DISTINCT g, h FROM t) k
		 WHERE (SELECT sum(n) FROM jobstate.counts('t', jsonb_build_object('g', g, 'h', h))) IS DISTINCT FROM 2)),
		'0', "$encoding: and finds itself");
	is($node->safe_psql($name, q(
		SELECT jobstate.rebuild('t'), jobstate.fold() >= 0, (SELECT count(*) FROM jobstate.verify()))),
		2 * $n * ($n + 1) . '|t|0', "$encoding: rebuilt");
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'the server lives');

$node->stop;
done_testing();
