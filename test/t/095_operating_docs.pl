
# docs/operating.md is what the database says: the sessions, the checks, the metrics.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use Documented;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = slurp_file('docs/operating.md');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
blocks_are_true($node, $docs);

# everything that can be installed, so that every part has something to say
$node->safe_psql('postgres', q{
	SELECT jobstate.install(f) FROM jobstate.family_names() f;
	SELECT jobstate.enqueue('mail', 'welcome', '{}');
	SELECT jobstate.queue_define('mail', '{"max_running": 5}');
	SELECT jobstate.ledger_mark('mails', 'a');
	SELECT jobstate.schedule_define('hourly', 'every 1 hour');
	SELECT jobstate.fold()});

# each check gives a row where it finds nothing; "health" is what health() says of a part that failed
my ($checks) = $docs =~ /^### The checks\n(.*?)^##/ms;
my @checks = $checks =~ /^\| `([\w ]+)` \|/mg;
is_deeply([ sort @checks ], [ sort 'health', split /\n/, $node->safe_psql('postgres',
	'SELECT DISTINCT check_name FROM jobstate.health(deep => true)') ], 'every check');

my ($metrics) = $docs =~ /^## metrics\n(.*)/ms;
my %documented = map { /^\| `(\w+)` \|(.*)\|$/ ? ($1 => $2) : () } split /\n/, $metrics;
my %there = map { split /:/, $_, 2 } split /\n/, $node->safe_psql('postgres', q{
	SELECT DISTINCT name || ':' || format(' %s | %s | %s ', kind,
	       (SELECT string_agg('`' || k || '`', ', ' ORDER BY k) FROM jsonb_object_keys(labels) k), help)
	  FROM jobstate.metrics});
is_deeply(\%documented, \%there, 'every metric: kind, labels and what it is');
is($node->safe_psql('postgres', q{SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0}), '0',
	'no part of them fails');

$node->stop;
done_testing();
