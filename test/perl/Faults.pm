# Libraries that make things fail: the extension linked with its calls led through test/faults/fault.c,
# and a disk that is full (test/faults/nospace.c).
package Faults;
use strict;
use warnings;
use Cwd qw(getcwd);
use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(faulty_extension full_disk use_faulty);

# Calls that may ask for memory, and those that may fail otherwise or take long.
my @memory = qw(palloc palloc0 palloc_extended repalloc repalloc_huge pstrdup pnstrdup
  MemoryContextAlloc MemoryContextAllocZero MemoryContextAllocZeroAligned MemoryContextAllocHuge
  MemoryContextAllocExtended MemoryContextStrdup AllocSetContextCreateInternal GenerationContextCreate
  lappend lappend_oid list_append_unique_oid list_concat list_concat_unique_oid list_make1_impl
  hash_create bms_add_member bms_make_singleton cstring_to_text text_to_cstring initStringInfo
  enlargeStringInfo appendStringInfoString datumCopy construct_array deconstruct_array
  pg_detoast_datum_copy RegisterSnapshot PushActiveSnapshot table_slot_create
  MakeSingleTupleTableSlot heap_form_tuple heap_modify_tuple SPI_connect SPI_connect_ext SPI_prepare
  SPI_keepplan CopyErrorData tuplestore_putvalues ExecInitExpr stringToNode);
my @other = qw(table_open index_open index_beginscan index_rescan index_getnext_slot index_getnext_tid
  LockRelationOid ConditionalLockRelationOid LockAcquire heap_insert index_insert ReadBuffer
  systable_beginscan systable_getnext CommandCounterIncrement GetLatestSnapshot
  GetTransactionSnapshot GetCurrentCommandId RelationSetNewRelfilenode RelationSetNewRelfilenumber
  reindex_relation ExecInsertIndexTuples ExecSimpleRelationInsert ExecSimpleRelationUpdate
  ExecOpenIndices AfterTriggerFireDeferred RegisterDynamicBackgroundWorker CatalogTupleUpdate
  BeginInternalSubTransaction ReleaseCurrentSubTransaction SPI_commit find_all_inheritors
  SearchSysCache1 SearchSysCache2 WaitForLockersMultiple nextval_internal SPI_execute SPI_execute_plan
  SPI_execute_with_args SPI_execute_snapshot SPI_cursor_open_with_args SPI_cursor_fetch
  RelationGetIndexList lookup_type_cache get_relname_relid jsonb_in set_config_option
  RelationGetPartitionDesc ReleaseAndReadBuffer heap_page_prune_opt pg_sequence_last_value);

sub pg_config
{
	my ($what) = @_;
	my ($out) = run_command([ $ENV{PG_CONFIG} || 'pg_config', "--$what" ]);
	chomp $out;
	return $out;
}

sub compile
{
	my (@arguments) = @_;
	my @cc = split / /, pg_config('cc');
	my ($out, $err) = run_command([ @cc, '-O1', '-fPIC', '-shared', @arguments ]);
	return $err eq '' || $err !~ /error/ ? undef : $err;
}

# The path of the library without its suffix, or an empty string and the reason why there is none.
sub faulty_extension
{
	my $tree = getcwd();
	my $made = "$PostgreSQL::Test::Utils::tmp_check/jobstate_faulty";
	my @objects = glob "$tree/src/*.o";
	return ('', 'the server runs under something else') if $ENV{SERVER_UNDER};
	return ('', 'the extension was not built here') unless @objects && -e "$tree/jobstate.so";
	my ($symbols) = run_command([ 'nm', '-D', '--undefined-only', "$tree/jobstate.so" ]);
	my %called = map { $_ => 1 } $symbols =~ /\bU (\w+)$/mg;
	open my $header, '>', "$PostgreSQL::Test::Utils::tmp_check/wrapped.h" or die;
	print $header "WRAP($_, true)\n" for grep { $called{$_} } @memory;
	print $header "WRAP($_, false)\n" for grep { $called{$_} } @other;
	close $header;
	my $error = compile('-o', "$made.so", '-I', pg_config('includedir-server'), '-I', $PostgreSQL::Test::Utils::tmp_check,
		"$tree/test/faults/fault.c", @objects, map { "-Wl,--wrap=$_" } grep { $called{$_} } @memory, @other);
	return -e "$made.so" ? ($made, '') : ('', "it cannot be linked: $error");
}

# The path of the library to preload.
sub full_disk
{
	my $made = "$PostgreSQL::Test::Utils::tmp_check/nospace.so";
	my $error = compile('-o', $made, getcwd() . '/test/faults/nospace.c', '-ldl');
	die $error unless -e $made;
	return $made;
}

# From the next session on the database calls the other library.
sub use_faulty
{
	my ($node, $library) = @_;
	$node->safe_psql('postgres', qq{
		SET allow_system_table_mods = on;
		UPDATE pg_proc SET probin = '$library' WHERE probin = '\$libdir/jobstate';
		CREATE FUNCTION fault("char", integer) RETURNS void LANGUAGE c AS '$library';
		CREATE FUNCTION fault_report() RETURNS text LANGUAGE c AS '$library';
	});
}

1;
