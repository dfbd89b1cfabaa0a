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

# What is left to the commit of such a step would run as the superuser who commits it: a deferred
# trigger of a parent whose children the owner's triggers changed.
as('regress_owner', q{
	SELECT jobstate.define_machine('phase', '{"ready": 1, "busy": 2, "done": 3}',
		'{ready -> busy, busy -> ready, busy -> done, ready -> done}', NULL, '{done}');
	SELECT jobstate.define_rules('phase', '{empty -> ready, all done -> done, always -> busy}');
	CREATE TABLE public.parent (id int PRIMARY KEY, state text NOT NULL DEFAULT 'ready');
	CREATE TABLE public.child (id int PRIMARY KEY, parent_id int, state text NOT NULL DEFAULT 'ready');
	CREATE INDEX ON public.child (parent_id);
	SELECT jobstate.attach(t, 'phase', 'state') FROM unnest('{public.parent,public.child}'::regclass[]) t;
	SELECT jobstate.derive('public.parent', 'public.child', 'parent_id', 'phase');
	INSERT INTO public.parent VALUES (1);
	INSERT INTO public.child VALUES (1, 1);
	CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON public.parent DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION public.catch();
	SELECT count(*) FROM jobstate.claim('q', 'w', 3);
	CREATE FUNCTION public.poke() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN UPDATE public.child SET state = 'done'; RETURN NEW; END $$;
	CREATE TRIGGER poke BEFORE UPDATE ON jobstate.job FOR EACH ROW EXECUTE FUNCTION public.poke();
	SELECT pg_sleep(0.01);
	TRUNCATE public.caught});
my ($ret, $out, $err) = $node->psql('own', 'CALL jobstate.maintain()', extra_params => [ '--username', $superuser ]);
like($err, qr/cannot fire deferred trigger within security-restricted operation/, 'maintain() leaves no trigger of an owner to its commit');
is(as('regress_owner', q{SELECT count(*) FROM public.caught WHERE who <> 'regress_owner'}), '0', 'so none runs as who commits');
as('regress_owner', 'DROP TRIGGER late ON public.parent');
as($superuser, 'CALL jobstate.maintain()');
is(as('regress_owner', q{SELECT state FROM public.parent}), 'done', 'the parent is what its children say after maintain()');

# Code wherever a table can hold any: a superuser who looks at the table or counts it does not run
# it. By the verbs that change its rows he runs what his own UPDATE and DELETE would run.
as($superuser, q{
	CREATE ROLE regress_mallory LOGIN;
	CREATE SCHEMA m AUTHORIZATION regress_mallory;
	GRANT ALL ON public.caught TO PUBLIC});
as('regress_mallory', q{
	CREATE FUNCTION m.note(what text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught (what) VALUES (what); RETURN true; END $$;
	CREATE FUNCTION m.pure(what text, value text DEFAULT 'x') RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN PERFORM m.note(what); RETURN value; EXCEPTION WHEN OTHERS THEN RETURN value; END $$;
	CREATE FUNCTION m.catch() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM m.note('trigger'); IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$;
	-- without a block of exceptions, in which 18 takes itself for broken when it plans the check (typcache.c)
	CREATE FUNCTION m.bare(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN PERFORM m.note(what); RETURN 'x'; END $$;
	CREATE DOMAIN m.evil AS text CHECK (m.bare('domain') = 'x');
	CREATE TABLE m.tab (id bigint PRIMARY KEY, g m.evil, state smallint NOT NULL DEFAULT 1, at timestamptz NOT NULL DEFAULT '2020-01-01',
		made text GENERATED ALWAYS AS (m.pure('generated')) STORED, CHECK (m.pure('check') = 'x'));
	CREATE INDEX ON m.tab ((m.pure('index')));
	CREATE INDEX ON m.tab (g) WHERE m.pure('predicate') = 'x';
	CREATE STATISTICS m.tab_s ON (m.pure('statistics', g)), id FROM m.tab;
	CREATE TRIGGER catch BEFORE INSERT OR UPDATE OR DELETE ON m.tab FOR EACH ROW EXECUTE FUNCTION m.catch();
	INSERT INTO m.tab SELECT n, 'g' || n % 2 FROM generate_series(1, 20) n});
as($superuser, 'TRUNCATE public.caught');
for my $call (q{SELECT * FROM jobstate.validate('m.tab', 'phase', 'state', '{g}')}, q{SELECT jobstate.attach('m.tab', 'phase', 'state', '{g}')},
	q{SELECT * FROM jobstate.counts('m.tab')}, q{SELECT * FROM jobstate.counts('m.tab', '{"g": "g1"}')},
	q{SELECT * FROM jobstate.counts_now('m.tab', '{"g": "g1"}')}, q{SELECT * FROM jobstate.totals('m.tab', '{"g": "g1"}')},
	q{SELECT * FROM jobstate.verify()}, q{SELECT jobstate.recount('m.tab')}, q{SELECT jobstate.rebuild('m.tab')},
	q{SELECT jobstate.mermaid('phase', 'm.tab')}, q{SELECT jobstate.fold()}, q{CALL jobstate.maintain()}, q{SELECT * FROM jobstate.health(true)},
	q{SELECT * FROM jobstate.metrics}, q{SELECT jobstate.rows_now('m.tab', 1::smallint)})
{
	as($superuser, $call);
}
is(as($superuser, qq{SELECT string_agg(DISTINCT what, ' ') FROM public.caught WHERE who = '$superuser'}), '',
	'a superuser who counts and looks after a table runs nothing of its owner');
for my $call (q{SELECT * FROM jobstate.transition('m.tab', '{1}', 'done')}, q{SELECT jobstate.prune('m.tab', '1 day', 'at', 5)})
{
	as($superuser, $call);
}
is(as($superuser, qq{SELECT string_agg(DISTINCT what, ' ' ORDER BY what) FROM public.caught WHERE who = '$superuser'}),
	'check generated index predicate trigger', 'who writes to it does, as by an UPDATE or DELETE');

# Definer functions, called with a path and temporary tables full of things of the same name; and
# row security, which no verb passes by, whoever owns the table.
as('regress_owner', q{
	CREATE TABLE public.held (id int PRIMARY KEY, g text, state smallint NOT NULL DEFAULT 1);
	SELECT jobstate.attach('public.held', 'phase', 'state', '{g}');
	INSERT INTO public.held SELECT n, 'g' || n % 2 FROM generate_series(1, 10) n;
	CREATE FUNCTION public.definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
		SELECT pg_catalog.concat_ws(' ', (SELECT pg_catalog.sum(n) FROM jobstate.counts('public.held')),
			(SELECT pg_catalog.count(*) FROM jobstate.take('public.held', 'ready', 'busy', '{"g": "g1"}', 1)),
			(SELECT pg_catalog.count(*) FROM jobstate.transition('public.held', '{2}', 'done')),
			(SELECT pg_catalog.count(*) FROM jobstate.claim('q', 'w', 1)),
			(SELECT pg_catalog.count(*) > 0 FROM jobstate.health(true))) $$;
	GRANT EXECUTE ON FUNCTION jobstate.take, jobstate.transition, jobstate.prune TO regress_mallory;
	GRANT SELECT, UPDATE, DELETE ON public.held TO regress_mallory;
	TRUNCATE public.caught});
my $planted = 'SET search_path = pg_catalog; CREATE TEMP TABLE job (id int); CREATE TEMP TABLE attachment (target int); CREATE TEMP TABLE pg_class (oid oid);'
  . join('', map { "CREATE FUNCTION m.same($_, $_) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM m.note(''operator''); RETURN true; END';"
		  . "CREATE OPERATOR m.= (LEFTARG = $_, RIGHTARG = $_, FUNCTION = m.same);" } qw(text smallint bigint integer oid));
like(as('regress_mallory', "$planted SET search_path = m, pg_temp, pg_catalog; SELECT public.definer()"), qr/^10 1 1 [01] t$/,
	'definer functions do what they should with a hostile path');
is(as('regress_owner', q{SELECT string_agg(DISTINCT who || ' ' || what, ', ') FROM public.caught WHERE what = 'operator'}), '',
	'and run nothing that the caller planted');
as('regress_owner', q{ALTER TABLE public.held ENABLE ROW LEVEL SECURITY; ALTER TABLE public.held FORCE ROW LEVEL SECURITY;
	CREATE POLICY g1 ON public.held USING (g = 'g1')});
for my $role ('regress_mallory', 'regress_owner')
{
	for my $call (qw(counts counts_now totals verify))
	{
		($ret, $out, $err) = $node->psql('own', "SELECT * FROM jobstate.$call('public.held')", extra_params => [ '--username', $role ]);
		like($err, qr/row-level security hides rows/, "$call() tells $role nothing of rows that are hidden");
	}
	as($role, q{SELECT * FROM jobstate.transition('public.held', '{4,6,8,10}', 'done'); SELECT * FROM jobstate.take('public.held', 'ready', 'busy', NULL, 99)});
}
is(as($superuser, q{SELECT count(*) FROM public.held WHERE g = 'g0' AND state = 1}), '4', 'nor do verbs move them');
is(as($superuser, q{SELECT * FROM jobstate.verify('public.held')}), '', 'and what they moved is counted');

# Who changes roles between a statement and its end loses nothing, and gains nothing.
as($superuser, q{
	INSERT INTO public.parent VALUES (2);
	GRANT INSERT, SELECT ON public.child TO regress_mallory;
	CREATE ROLE regress_plain;
	BEGIN; SET LOCAL SESSION AUTHORIZATION regress_mallory; INSERT INTO public.child VALUES (2, 2, 'busy');
	SET LOCAL SESSION AUTHORIZATION regress_plain; COMMIT});
is(as($superuser, q{SELECT state FROM public.parent WHERE id = 2}), 'busy', 'the parent is written as its owner, whoever commits');

# What a role drops, or leaves to another, leaves nothing behind.
as($superuser, q{CREATE ROLE regress_heir; REASSIGN OWNED BY regress_mallory TO regress_heir});
is(as($superuser, 'SELECT * FROM jobstate.verify()'), '', 'counts of tables that were passed on');
as($superuser, 'DROP OWNED BY regress_heir');
is(as($superuser, q{SELECT count(*) FROM jobstate.attachment WHERE target::text LIKE 'm.%' OR target::text ~ '^[0-9]'}), '0',
	'tables that are dropped with their owner are forgotten');

$node->stop;
done_testing();
