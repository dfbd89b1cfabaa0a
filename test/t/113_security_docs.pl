# The table of functions in docs/security.md says of each who may call it and as whom it runs, as
# the catalogue does; what is not plain SQL as the caller has a word on what it asks for.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = "$FindBin::Bin/../../docs/security.md";
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobstate;
	DO $$
	DECLARE
		family text;
	BEGIN
		FOREACH family IN ARRAY '{uploads,queue,store,ledger,schedule,apply}'::text[] LOOP
			PERFORM jobstate.install(family);
		END LOOP;
		FOREACH family IN ARRAY '{upload,queue,store,ledger,schedule,apply}'::text[] LOOP
			EXECUTE format('CREATE ROLE regress_%s', family);
			EXECUTE format('SELECT jobstate.%s_grant(%L)', family, 'regress_' || family);
		END LOOP;
	END $$});

# Signatures, who may call, as whom they run, and whether the catalogue alone answers for them:
# SQL that runs as the caller, with a search_path of its own where it may write.
my $rows = $node->safe_psql('postgres', q{
	SELECT format(E'%s\t%s\t%s\t%s', regexp_replace(p.oid::regprocedure::text, '^jobstate\.', ''),
		CASE WHEN p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) THEN 'trigger'
			WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'everybody'
			WHEN has_function_privilege('pg_database_owner', p.oid, 'EXECUTE')
			THEN 'owner' || coalesce((SELECT string_agg(', ' || f || '_grant()', '' ORDER BY f)
				FROM unnest('{upload,queue,store,ledger,schedule,apply}'::text[]) f
				WHERE has_function_privilege('regress_' || f, p.oid, 'EXECUTE')), '')
			ELSE 'nobody' END,
		CASE WHEN p.prosecdef THEN 'extension' WHEN l.lanname = 'c' THEN 'C' ELSE 'caller' END,
		CASE WHEN p.prosecdef OR l.lanname = 'c' OR p.provolatile = 'v'
			AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(p.proconfig, '{}')) THEN 'note' END)
	FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace = 'jobstate'::regnamespace
	ORDER BY p.oid::regprocedure::text COLLATE "C"});
$node->stop;

my $text = slurp_file($page);
my ($before, $table, $after) = $text =~ /^(.*<!-- functions -->\n)(.*?)(<!-- end -->.*)$/s;
ok(defined $table, 'docs/security.md has a table of functions');
my %note = map { /^\| `(.*?)` \|.*\| (.*?) ?\|$/ ? ($1, $2) : () } split /\n/, $table // '';

my $wanted = "| function | who may call it | runs as | what it asks for |\n|---|---|---|---|\n";
my @silent;
for (split /\n/, $rows)
{
	my ($function, $who, $as, $needs) = split /\t/;
	my $said = $note{$function} // '';
	push @silent, $function if $needs && $said eq '';
	$wanted .= "| `$function` | $who | $as | " . ($said eq '' ? '' : "$said ") . "|\n";
}
cmp_ok(scalar(split /\n/, $rows), '>', 400, 'functions of the extension');
is_deeply(\@silent, [], 'what is C, or runs as the extension, has a word on what it asks for');
my $is_current = is($table, $wanted, 'the table is that of the catalogue');

# What the table should be, to be looked at and taken over.
my $new = "$PostgreSQL::Test::Utils::tmp_check/security.md";
append_to_file($new, $before . $wanted . $after) if defined $before && !$is_current;
diag("the page with the table of the catalogue: $new") if !$is_current;
done_testing();
