# What the owner of a database, who is no superuser, can make of the extension that he created; what
# event triggers of others do while ours run; and whose names code finds that runs as a table's owner.
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
	CREATE ROLE regress_mallory LOGIN;
	CREATE DATABASE own OWNER regress_owner});
my $superuser = getpwuid($<);

sub as
{
	my ($role, $sql) = @_;
	return $node->safe_psql('own', $sql, extra_params => [ '--username', $role ]);
}

sub error_as
{
	my ($role, $sql) = @_;
	my ($ret, $out, $err) = $node->psql('own', $sql, extra_params => [ '--username', $role ]);
	return $err;
}

as('regress_owner', q{
	CREATE EXTENSION jobstate;
	SELECT jobstate.define_machine('m', '{"new": 1, "busy": 2, "done": 3}', '{new -> busy, busy -> new, busy -> done, new -> done}', NULL, '{done}');
	CREATE TABLE public.caught (who name DEFAULT current_user, what text);
	GRANT ALL ON public.caught TO PUBLIC;
	GRANT ALL ON SCHEMA public TO PUBLIC;
	GRANT EXECUTE ON FUNCTION jobstate.attach TO PUBLIC});
as($superuser, q{
	CREATE TABLE public.super (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new');
	SELECT jobstate.attach('public.super', 'm', 'state')});

# A log that was never folded is full: that is nothing yet, but will be.
as($superuser, q{
	CREATE TABLE public.many (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new');
	SELECT jobstate.attach('public.many', 'm', 'state', '{id}');
	INSERT INTO public.many SELECT generate_series(1, 12000)});
my $overdue = q{SELECT string_agg(check_name, ' ' ORDER BY check_name) FROM jobstate.health(patience => '%s') WHERE status = 'warning'};
is(as($superuser, 'SELECT jobstate.log_full_since() > now() - interval $$1 minute$$, jobstate.last_fold() IS NULL'), 't|t', 'since when a log is full that was never folded');
is(as($superuser, sprintf($overdue, '1 hour')), '', 'health() has patience with it');
is(as($superuser, sprintf($overdue, '0')), 'maintenance unfolded', 'as long as it is told to');
as($superuser, 'DROP TABLE public.many; CALL jobstate.maintain()');
is(as($superuser, sprintf($overdue, '0') . '; SELECT jobstate.log_full_since() IS NULL'), "\nt", 'after a fold all is well');

# He can make his functions members of his extension.  Nobody calls them for it.
as('regress_owner', q{
	CREATE FUNCTION jobstate.maintain_evil(step int) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES ('maintain'); RETURN NULL; END $$;
	CREATE FUNCTION jobstate.health_evil(deep boolean, patience interval)
		RETURNS TABLE (check_name text, object text, status text, detail text, fix text) LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES ('health'); END $$;
	CREATE FUNCTION jobstate.metrics_evil() RETURNS TABLE (name text, labels jsonb, value numeric) LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES ('metrics'); END $$;
	CREATE FUNCTION jobstate.install_evil() RETURNS void LANGUAGE sql AS $$ INSERT INTO public.caught (what) VALUES ('install') $$;
	ALTER EXTENSION jobstate ADD FUNCTION jobstate.install_evil;
	ALTER EXTENSION jobstate ADD FUNCTION jobstate.maintain_evil;
	ALTER EXTENSION jobstate ADD FUNCTION jobstate.health_evil;
	ALTER EXTENSION jobstate ADD FUNCTION jobstate.metrics_evil});
as($superuser, 'CALL jobstate.maintain()');
as($superuser, 'SELECT * FROM jobstate.health()');
as($superuser, 'SELECT * FROM jobstate.metrics');
like(error_as($superuser, q{SELECT jobstate.install('evil')}), qr/family "evil" does not exist/, 'what was planted is no family');
is(as($superuser, 'SELECT count(*) FROM public.caught'), '0', 'a superuser who maintains and looks runs no member that was planted');

# The other ways to it are closed by the server.
for my $try ('ALTER FUNCTION jobstate.health SECURITY DEFINER', 'ALTER FUNCTION jobstate.define_machine RESET ALL', 'ALTER FUNCTION jobstate.health OWNER TO regress_owner',
	q{CREATE OR REPLACE FUNCTION jobstate.can_see(relation oid) RETURNS boolean LANGUAGE sql AS 'SELECT true'}, 'ALTER SCHEMA jobstate RENAME TO other',
	'ALTER EXTENSION jobstate DROP FUNCTION jobstate.health', 'ALTER EXTENSION jobstate DROP TABLE jobstate.attachment', 'DROP FUNCTION jobstate.health',
	'ALTER TABLE jobstate.attachment DISABLE TRIGGER ALL', 'ALTER EVENT TRIGGER jobstate_sql_drop DISABLE')
{
	like(error_as('regress_owner', $try), qr/must be owner of/, $try);
}

# Code that runs as a table's owner finds no names of whoever counts.
as('regress_owner', q{
	CREATE SCHEMA o;
	CREATE FUNCTION o.fits(value text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
		BEGIN RETURN helper(value); EXCEPTION WHEN undefined_function THEN RETURN true; END $$;
	CREATE DOMAIN o.name AS text CHECK (o.fits(VALUE));
	CREATE TABLE o.tab (id int PRIMARY KEY, g o.name[], state text NOT NULL DEFAULT 'new');
	SELECT jobstate.attach('o.tab', 'm', 'state', '{g}');
	INSERT INTO o.tab SELECT n, ARRAY['g' || n % 2] FROM generate_series(1, 4) n;
	GRANT USAGE ON SCHEMA o TO PUBLIC;
	GRANT SELECT ON o.tab TO PUBLIC});
as('regress_mallory', q{
	CREATE FUNCTION public.helper(value text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES (value); RETURN true; END $$;
	SET search_path = public;
	SELECT * FROM jobstate.counts('o.tab');
	SELECT * FROM jobstate.counts('o.tab', '{"g": "{g1}"}');
	SELECT * FROM jobstate.counts_now('o.tab', '{"g": "{g1}"}');
	SELECT * FROM jobstate.totals('o.tab', '{"g": "{g1}"}');
	SELECT * FROM jobstate.verify('o.tab')});
is(as($superuser, q{SELECT string_agg(DISTINCT who || ' ' || what, ', ') FROM public.caught WHERE who = 'regress_owner'}), '',
	'who counts cannot have the owner call functions of his');
is(as('regress_mallory', q{SET search_path = public, pg_catalog; SELECT count(*) FROM jobstate.counts('o.tab'); SHOW search_path}), "6\npublic, pg_catalog",
	'and has his search_path back');

# A step of maintenance that fails, by a parent too, is undone and told; the others go on.
as('regress_owner', q{
	SELECT jobstate.install(f) FROM unnest('{queue,store}'::text[]) f;
	SELECT jobstate.queue_define('q', '{"lease": "1 ms"}');
	SELECT jobstate.enqueue('q', 'k');
	SELECT jobstate.store_create('old', '{}', '1 ms');
	SELECT count(*) FROM jobstate.claim('q', 'w', 1);
	SELECT pg_sleep(0.01);
	CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no such thing'; END $$;
	CREATE TRIGGER no BEFORE UPDATE ON jobstate.job FOR EACH ROW EXECUTE FUNCTION public.no()});
like(error_as($superuser, 'CALL jobstate.maintain()'), qr/WARNING:  a step of a family's maintenance failed\nDETAIL:  .*maintain_queue.*no such thing/, 'a step that fails is told');
is(as($superuser, 'SELECT (SELECT count(*) FROM jobstate.job WHERE state_id = 2), (SELECT count(*) FROM jobstate.store WHERE expired_at IS NULL)'), '1|0',
	'it is undone, the others are not');
as('regress_owner', 'DROP TRIGGER no ON jobstate.job');

# Event triggers of others: one that changes counted rows and makes tables beside each command, and
# one that refuses.
as('regress_owner', q{
	CREATE TABLE public.part (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new') PARTITION BY RANGE (id);
	CREATE TABLE public.part_1 PARTITION OF public.part FOR VALUES FROM (0) TO (1000);
	SELECT jobstate.attach('public.part', 'm', 'state')});
as($superuser, q{
	CREATE ROLE regress_other SUPERUSER;
	CREATE FUNCTION public.beside() RETURNS event_trigger LANGUAGE plpgsql SET search_path = nowhere AS $$
		BEGIN
			EXECUTE 'UPDATE public.part SET state = ''done'' WHERE id = (SELECT min(id) FROM public.part p WHERE p.state = ''new'')';
			INSERT INTO public.part SELECT coalesce(max(id), 0) + 1 FROM public.part;
			CREATE TABLE IF NOT EXISTS public.side (x int);
		END $$;
	CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
	CREATE EVENT TRIGGER aa_start ON ddl_command_start WHEN TAG IN ('ALTER TABLE', 'CREATE TRIGGER') EXECUTE FUNCTION public.beside();
	CREATE EVENT TRIGGER aa_end ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TRIGGER') EXECUTE FUNCTION public.beside();
	CREATE EVENT TRIGGER zz_drop ON sql_drop WHEN TAG IN ('DROP TABLE', 'DROP TRIGGER') EXECUTE FUNCTION public.beside();
	CREATE EVENT TRIGGER zz_rewrite ON table_rewrite EXECUTE FUNCTION public.beside();
	ALTER EVENT TRIGGER aa_start OWNER TO regress_other; ALTER EVENT TRIGGER aa_end OWNER TO regress_other});
as('regress_owner', q{
	CREATE TABLE public.more (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new');
	INSERT INTO public.more SELECT generate_series(1000, 1010);
	GRANT ALL ON public.part, public.part_1, public.more TO PUBLIC;
	ALTER TABLE public.part ATTACH PARTITION public.more FOR VALUES FROM (1000) TO (2000);
	CALL jobstate.maintain();
	ALTER TABLE public.part DETACH PARTITION public.more;
	CALL jobstate.maintain();
	ALTER TABLE public.part ADD made timestamptz DEFAULT clock_timestamp();
	ALTER TABLE public.part ALTER state TYPE varchar;
	SELECT jobstate.detach('public.part');
	SELECT jobstate.attach('public.part', 'm', 'state');
	DROP TABLE public.more;
	CREATE TABLE o.spare (id int PRIMARY KEY, state text);
	SELECT jobstate.rotate()});
as($superuser, 'CALL jobstate.maintain()');
is(as($superuser, 'SELECT (SELECT count(*) FROM jobstate.verify()), (SELECT count(*) > 5 FROM public.part), (SELECT counted FROM jobstate.attachments WHERE target = $$public.part$$::regclass)'),
	'0|t|t', "others' event triggers beside ours: all is counted");
as($superuser, 'DROP EVENT TRIGGER aa_start; DROP EVENT TRIGGER aa_end; DROP EVENT TRIGGER zz_drop; DROP EVENT TRIGGER zz_rewrite;
	CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION public.refuse(); CREATE EVENT TRIGGER refuse_drop ON sql_drop EXECUTE FUNCTION public.refuse()');
my $attached = q{SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM jobstate.attachment a};
my $before = as($superuser, $attached);
for my $call (q{attach('o.spare', 'm', 'state')}, q{detach('public.part')}, q{install('ledger')})
{
	like(error_as('regress_owner', "SELECT jobstate.$call"), qr/ERROR:  refused/, "$call is refused by an event trigger");
}
is(as($superuser, $attached), $before, 'and nothing is attached or detached by it');
is(error_as($superuser, 'CALL jobstate.maintain(); SELECT jobstate.fold(); SELECT jobstate.rebuild($$public.part$$)'), '', 'what makes no DDL goes on');
as($superuser, 'DROP EVENT TRIGGER refuse; DROP EVENT TRIGGER refuse_drop');
is(as($superuser, 'SELECT (SELECT count(*) FROM jobstate.verify()), (SELECT count(*) FROM pg_class WHERE relname = $$ledger$$)'), '0|0', 'nothing of it is left');

# Tables that change hands, and owners that go.
as($superuser, q{
	GRANT regress_mallory TO regress_owner;
	REASSIGN OWNED BY regress_owner TO regress_mallory});
as('regress_mallory', q{SELECT jobstate.enqueue('q', 'k'); UPDATE public.part SET state = 'done' WHERE state = 'new'; CALL jobstate.maintain()});
is(as($superuser, 'SELECT * FROM jobstate.verify()'), '', 'tables of families and others that were passed on');
as($superuser, 'DROP OWNED BY regress_mallory CASCADE; DROP OWNED BY regress_mallory CASCADE');
is(as($superuser, q{SELECT count(*) FROM pg_extension WHERE extname = 'jobstate'}), '0', 'the extension goes with its owner');
$node->stop;
done_testing();
