
# Where jobs flow the background worker also does what the queue needs now and then: with
# the rights of whoever owns the queue, not with its own. CALL maintain() does it as the caller.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE regress_app LOGIN;
	CREATE ROLE regress_other LOGIN;
	CREATE DATABASE app OWNER regress_app;
	ALTER DATABASE app SET default_transaction_isolation = 'serializable';
	ALTER DATABASE app SET default_transaction_read_only = on;
});

my @options = (extra_params => [ '--username', 'regress_app' ]);
local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off -c default_transaction_isolation=read\ committed';
$node->safe_psql('app', q{CREATE EXTENSION jobstate; GRANT EXECUTE ON PROCEDURE jobstate.maintain() TO regress_other});
$node->safe_psql('app', q{
	SET jobstate.auto_maintain = off;
	SELECT jobstate.install('queue');
	SELECT jobstate.queue_ring_define('{"slots": 4, "slot_jobs": 100, "retention": "0"}');
	CREATE TABLE seen (who text, event text);
	CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen VALUES (current_user, TG_OP || ' ' || TG_TABLE_NAME);
		RETURN NULL;
	END $$;
	SELECT jobstate.enqueue('q', 'due', run_at => clock_timestamp() + '1 hour');
	SELECT jobstate.enqueue('q', 'lost');
	SELECT jobstate.claim('q', 'w', 1, '1 hour');
	SELECT jobstate.enqueue_many('q', array_fill('done'::text, '{98}'), array_fill('{}'::jsonb, '{98}'));
	SELECT jobstate.complete(array_agg(c.id), array_agg(c.token)) FROM jobstate.claim('q', 'w', 98) c WHERE c.kind <> 'due';
	SELECT jobstate.enqueue_many('q', array_fill('next'::text, '{50}'), array_fill('{}'::jsonb, '{50}'));
	UPDATE jobstate.job SET run_at = clock_timestamp() WHERE kind = 'due';
	UPDATE jobstate.job SET lease_until = clock_timestamp() WHERE kind = 'lost';
	CREATE TRIGGER look AFTER DELETE ON jobstate.job_waiting FOR EACH ROW EXECUTE FUNCTION look();
	CREATE TRIGGER look AFTER TRUNCATE ON jobstate.job_0 EXECUTE FUNCTION look();
}, @options);

# Each transaction touches thousands of groups, so that the log is full soon.
my $fill = q{
	SELECT count(*) FROM jobstate.enqueue_many('filler', array_fill('f'::text, '{4000}'), array_fill('{}'::jsonb, '{4000}'),
		limit_keys => ARRAY(SELECT 'key ' || n FROM generate_series(1, 4000) n));
};
my $done = q{
	SELECT NOT EXISTS (SELECT FROM jobstate.job WHERE kind = 'due' AND state_id = 3)
	   AND NOT EXISTS (SELECT FROM jobstate.job WHERE kind = 'lost' AND state_id = 2)
};

# Somebody whose queue this is not maintains it in vain.
my ($ret, $out, $err) = $node->psql('app', 'CALL jobstate.maintain()', extra_params => [ '--username', 'regress_other' ]);
is("$ret$err", '0', 'somebody else may call maintain()');
is($node->safe_psql('app', $done), 'f', 'but that does not touch the queue');

$node->safe_psql('app', $fill x 8, @options);
my $is_done = 0;
for (1 .. $PostgreSQL::Test::Utils::timeout_default)
{
	$is_done = $node->safe_psql('app', $done) eq 't';
	last if $is_done;
	$node->safe_psql('app', $fill, @options);
	sleep 1;
}
ok($is_done, 'the background worker has promoted and rescued');
is($node->safe_psql('app', q{SELECT DISTINCT who FROM seen}), 'regress_app', 'with the rights of the owner');

$node->safe_psql('app', q{UPDATE jobstate.job SET state_id = 6, finished_at = clock_timestamp() WHERE state_id = 1;
	TRUNCATE seen; CALL jobstate.maintain()}, @options);
is($node->safe_psql('app', q{SELECT count(*) FROM jobstate.job j, jobstate.queue_ring_now() r WHERE j.slot NOT IN (-1, r.slot)}),
	'0', 'the owner may call maintain(), and slots are emptied');
is($node->safe_psql('app', q{SELECT DISTINCT who FROM seen}), 'regress_app', 'as the owner');
is($node->safe_psql('app', 'SELECT * FROM jobstate.verify()'), '', 'the counts are right');
unlike(slurp_file($node->logfile), qr/maintenance failed/, 'nothing went wrong');

$node->stop;
done_testing();
