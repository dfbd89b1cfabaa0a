/*
 * src/key.c
 *
 * Group keys: the values of an attachment's group columns.
 *
 * In memory a key is its datums, compared and hashed as its types do it; where
 * the datum is a number, as with integers, enums and timestamps, by that number.
 * The log holds keys as text, see keytext.c.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "error.h"
#include "key.h"

/* Fills in what the text of a value is like, by type. */
static void
classify(JobstateKeyColumn *column)
{
	switch (column->base_type)
	{
		case OIDOID:
			column->is_unsigned = true;
			/* FALLTHROUGH */
		case INT2OID:
		case INT4OID:
		case INT8OID:
			column->textual = true;
			column->by_number = true;
			column->json_number = true;
			break;
		case BOOLOID:
			column->textual = true;
			column->json_boolean = true;
			break;
		case TEXTOID:
		case VARCHAROID:
		case NAMEOID:
		case CHAROID:
			column->textual = !OidIsValid(column->collation) ||
				get_collation_isdeterministic(column->collation);
			break;
		case UUIDOID:
			column->textual = true;
			break;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			column->textual = true;
			column->by_number = true;
			column->shown_by_settings = true;
			break;
		case BYTEAOID:
			column->textual = true;
			column->settings = true;
			break;
		case NUMERICOID:
			column->json_number = true;
			break;
		case FLOAT4OID:
		case FLOAT8OID:
			column->json_number = true;
			column->settings = true;
			break;
		default:
			column->is_unsigned = type_is_enum(column->base_type);
			column->textual = column->is_unsigned;
			column->by_number = column->is_unsigned;
			column->settings = !column->is_unsigned;
			break;
	}
}

/*
 * Does the text of a value stay the same when somebody renames an object or
 * alters a type?  An enum is stored by its label's OID, but not within another
 * type.
 */
static bool
has_stable_text(Oid type, bool outermost)
{
	Oid			base = getBaseType(type);
	Oid			inner = get_element_type(base);

	check_stack_depth();
	if (!OidIsValid(inner))
		inner = get_range_subtype(base);
	if (!OidIsValid(inner))
		inner = get_multirange_range(base);
	if (OidIsValid(inner))
		return has_stable_text(inner, false);
	switch (base)
	{
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGNAMESPACEOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGROLEOID:
		case REGTYPEOID:
			return false;
		default:
			return !type_is_rowtype(base) && (outermost || !type_is_enum(base));
	}
}

/* A column without a stored value is null where a trigger sees the row. */
void
jobstate_require_stored(Relation rel, AttrNumber attnum)
{
#if PG_VERSION_NUM >= 180000
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

	if (attr->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
		jobstate_error_virtual(rel, NameStr(attr->attname));
#endif
}

/* Describes one group column; it must exist. */
void
jobstate_key_column_init(JobstateKeyColumn *column, Relation rel,
						 const char *name)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	Form_pg_attribute attr;
	Oid			function;
	bool		varlena;

	if (attnum <= 0)
		jobstate_error_no_column(rel, name);
	jobstate_require_stored(rel, attnum);
	attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

	namestrcpy(&column->name, name);
	column->type = attr->atttypid;
	column->base_type = getBaseType(attr->atttypid);
	column->collation = attr->attcollation;
	column->typlen = attr->attlen;
	column->typbyval = attr->attbyval;
	column->typalign = attr->attalign;
	column->typcache = lookup_type_cache(column->base_type,
										 TYPECACHE_HASH_PROC_FINFO |
										 TYPECACHE_EQ_OPR_FINFO |
										 TYPECACHE_CMP_PROC);
	if (!OidIsValid(column->typcache->hash_proc) ||
		!OidIsValid(column->typcache->eq_opr) ||
		!OidIsValid(column->typcache->cmp_proc))
		jobstate_error_group_type(rel, name, column->type);
	if (!has_stable_text(column->type, true))
		jobstate_error_group_text(rel, name, column->type);
	classify(column);

	getTypeOutputInfo(column->type, &function, &varlena);
	fmgr_info_cxt(function, &column->output, CurrentMemoryContext);
	getTypeInputInfo(column->base_type, &function, &column->ioparam);
	fmgr_info_cxt(function, &column->input, CurrentMemoryContext);
}

void
jobstate_key_spec_finish(JobstateKeySpec *spec)
{
	int			i;

	spec->textual = true;
	spec->settings = false;
	spec->shown_by_settings = false;
	for (i = 0; i < spec->ncolumns; i++)
	{
		spec->textual &= spec->column[i].textual;
		spec->settings |= spec->column[i].settings;
		spec->shown_by_settings |= spec->column[i].shown_by_settings;
	}
}

/* Of a column that is stored as a number. */
int64
jobstate_key_number(JobstateKeyColumn *column, Datum value)
{
	if (column->is_unsigned)
		return DatumGetObjectId(value);
	if (column->typlen == sizeof(int64))
		return DatumGetInt64(value);
	return column->typlen == sizeof(int32) ? DatumGetInt32(value) : DatumGetInt16(value);
}

static uint32
hash_value(JobstateKeyColumn *column, Datum value)
{
	if (column->by_number)
	{
		uint64		number = (uint64) jobstate_key_number(column, value);

		return murmurhash32((uint32) (number ^ (number >> 32)));
	}
	return DatumGetUInt32(FunctionCall1Coll(&column->typcache->hash_proc_finfo,
											column->collation, value));
}

uint32
jobstate_key_hash(JobstateKeySpec *spec, JobstateKeyValues *key)
{
	uint32		hash = 0;
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
		hash = hash_combine(hash, key->isnull[i] ? 0 :
							hash_value(&spec->column[i], key->value[i]));
	return hash;
}

static bool
equal_values(JobstateKeyColumn *column, Datum a, Datum b)
{
	if (column->by_number)
		return jobstate_key_number(column, a) == jobstate_key_number(column, b);
	return DatumGetBool(FunctionCall2Coll(&column->typcache->eq_opr_finfo,
										  column->collation, a, b));
}

bool
jobstate_key_equal(JobstateKeySpec *spec, JobstateKeyValues *a,
				   JobstateKeyValues *b)
{
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		if (a->isnull[i] != b->isnull[i])
			return false;
		if (a->isnull[i] ||
			(spec->column[i].typbyval && a->value[i] == b->value[i]))
			continue;
		if (!equal_values(&spec->column[i], a->value[i], b->value[i]))
			return false;
	}
	return true;
}

/* Gives the key its own copies, in the current context. */
void
jobstate_key_copy(JobstateKeySpec *spec, JobstateKeyValues *key)
{
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];

		if (key->isnull[i] || column->typbyval)
			continue;
		if (column->typlen == -1)
			key->value[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(key->value[i]));
		else
			key->value[i] = datumCopy(key->value[i], false, column->typlen);
	}
}
