# What somebody plants on tables of his own runs with his rights, not with those of who maintains,
# counts or derives.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njobstate.auto_maintain = off");
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE regress_owner LOGIN;
	CREATE DATABASE own OWNER regress_owner});

sub as
{
	my ($role, $sql) = @_;
	return $node->safe_psql('own', $sql, extra_params => [ '--username', $role ]);
}
my $superuser = getpwuid($<);

as('regress_owner', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.install('queue');
	SELECT jobstate.queue_define('q', '{"lease": "1 ms"}');
	CREATE TABLE public.caught (who name DEFAULT current_user, what text);
	CREATE FUNCTION public.catch() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES (TG_TABLE_NAME || ' ' || TG_OP); RETURN NEW; END $$;
	CREATE TRIGGER catch BEFORE INSERT OR UPDATE OR DELETE ON jobstate.job FOR EACH ROW EXECUTE FUNCTION public.catch();
	SELECT jobstate.enqueue('q', 'k') FROM generate_series(1, 3);
	SELECT count(*) FROM jobstate.claim('q', 'w', 2);
	SELECT pg_sleep(0.01);
	TRUNCATE public.caught});
as($superuser, 'CALL jobstate.maintain()');
is(as('regress_owner', 'SELECT DISTINCT who FROM public.caught'), 'regress_owner',
	"a superuser's maintain() runs the owner's triggers as the owner");

$node->stop;
done_testing();
