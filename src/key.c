/*
 * src/key.c
 *
 * Group keys: the values of an attachment's group columns.
 *
 * In memory a key is its datums, compared and hashed as its types do it.  In
 * the log it is an array of text, written under fixed settings so that every
 * backend reads back the value that another one wrote; where the datum is a
 * number, as with enums and timestamps, that is the text.  Some types have equal
 * values with different text (numeric 1.0 and 1.00): such keys are brought
 * together when they are read, by value; their stored hash is the same.
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
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
			column->textual = true;
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
			column->textual = column->is_enum;
			column->by_number = column->is_enum;
			column->settings = !column->is_enum;
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
	column->is_enum = type_is_enum(column->base_type);
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
		spec->shown_by_settings |= spec->column[i].by_number &&
			!spec->column[i].is_enum;
	}
}

uint32
jobstate_key_hash(JobstateKeySpec *spec, JobstateKeyValues *key)
{
	uint32		hash = 0;
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];
		uint32		part = 0;

		if (!key->isnull[i])
			part = DatumGetUInt32(FunctionCall1Coll(&column->typcache->hash_proc_finfo,
													column->collation,
													key->value[i]));
		hash = hash_combine(hash, part);
	}
	return hash;
}

bool
jobstate_key_equal(JobstateKeySpec *spec, JobstateKeyValues *a,
				   JobstateKeyValues *b)
{
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];

		if (a->isnull[i] != b->isnull[i])
			return false;
		if (a->isnull[i] || (column->typbyval && a->value[i] == b->value[i]))
			continue;
		if (!DatumGetBool(FunctionCall2Coll(&column->typcache->eq_opr_finfo,
											column->collation,
											a->value[i], b->value[i])))
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

/* Settings under which a value's text means the same to every backend. */
int
jobstate_settings_begin(void)
{
	static const char *const fixed[][2] = {
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"timezone", "UTC"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"search_path", "pg_catalog"},
	};
	int			nest = NewGUCNestLevel();
	int			i;

	for (i = 0; i < lengthof(fixed); i++)
		(void) set_config_option(fixed[i][0], fixed[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

/* After an error the transaction's abort does this. */
void
jobstate_settings_end(int nest)
{
	AtEOXact_GUC(true, nest);
}

/* An enum is its label's OID, dates and timestamps are signed integers. */
static int64
datum_to_number(JobstateKeyColumn *column, Datum value)
{
	if (column->is_enum)
		return DatumGetObjectId(value);
	return column->typlen == sizeof(int32) ? DatumGetInt32(value) : DatumGetInt64(value);
}

static Datum
number_to_datum(JobstateKeyColumn *column, const char *string)
{
	int64		number = strtoi64(string, NULL, 10);

	if (column->is_enum)
		return ObjectIdGetDatum((Oid) number);
	return column->typlen == sizeof(int32) ? Int32GetDatum((int32) number) :
		Int64GetDatum(number);
}

static Datum
column_to_text(JobstateKeyColumn *column, Datum value)
{
	char	   *string;

	if (column->by_number)
		string = psprintf(INT64_FORMAT, datum_to_number(column, value));
	else
		string = OutputFunctionCall(&column->output, value);
	return CStringGetTextDatum(string);
}

/* The key as it stands in the log. */
ArrayType *
jobstate_key_to_text(JobstateKeySpec *spec, JobstateKeyValues *key)
{
	Datum		text[JOBSTATE_MAX_GROUP];
	bool		isnull[JOBSTATE_MAX_GROUP];
	int			dims[1] = {spec->ncolumns};
	int			lbs[1] = {1};
	ArrayType  *array;
	int			nest = 0;
	int			i;

	if (spec->ncolumns == 0)
		return construct_empty_array(TEXTOID);
	if (spec->settings)
		nest = jobstate_settings_begin();
	for (i = 0; i < spec->ncolumns; i++)
	{
		isnull[i] = key->isnull[i];
		text[i] = isnull[i] ? (Datum) 0 :
			column_to_text(&spec->column[i], key->value[i]);
	}
	if (spec->settings)
		jobstate_settings_end(nest);

	array = construct_md_array(text, isnull, 1, dims, lbs, TEXTOID, -1, false,
							   TYPALIGN_INT);
	if (VARSIZE(array) > JOBSTATE_MAX_KEY_BYTES)
		jobstate_error_key_too_long(VARSIZE(array), JOBSTATE_MAX_KEY_BYTES);
	return array;
}

static int
deconstruct(ArrayType *stored, Datum **values, bool **isnull)
{
	int			n;

	deconstruct_array(stored, TEXTOID, -1, false, TYPALIGN_INT, values, isnull, &n);
	return n;
}

/* The inverse of jobstate_key_to_text(). */
void
jobstate_key_from_text(JobstateKeySpec *spec, ArrayType *stored,
					   JobstateKeyValues *key)
{
	Datum	   *values;
	bool	   *isnull;
	int			n = deconstruct(stored, &values, &isnull);
	int			nest = 0;
	int			i;

	if (n != spec->ncolumns)
		elog(ERROR, "key has %d columns instead of %d", n, spec->ncolumns);
	if (spec->settings)
		nest = jobstate_settings_begin();
	for (i = 0; i < n; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];

		key->isnull[i] = isnull[i];
		key->value[i] = (Datum) 0;
		if (isnull[i])
			continue;
		if (column->by_number)
			key->value[i] = number_to_datum(column, TextDatumGetCString(values[i]));
		else
			key->value[i] = InputFunctionCall(&column->input,
											  TextDatumGetCString(values[i]),
											  column->ioparam, -1);
	}
	if (spec->settings)
		jobstate_settings_end(nest);
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = string;
	value.val.string.len = strlen(string);
	(void) pushJsonbValue(state, token, &value);
}

static void
push_value(JsonbParseState **state, JobstateKeyColumn *column, char *string)
{
	JsonbValue	value;

	if (column->by_number)
		string = OutputFunctionCall(&column->output,
									number_to_datum(column, string));
	if (column->json_boolean)
	{
		value.type = jbvBool;
		value.val.boolean = string[0] == 't';
	}
	else if (column->json_number &&
			 strspn(string, "+-0123456789.e") == strlen(string))
	{
		value.type = jbvNumeric;
		value.val.numeric =
			DatumGetNumeric(DirectFunctionCall3(numeric_in,
												CStringGetDatum(string),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1)));
	}
	else
	{
		push_string(state, WJB_VALUE, string);
		return;
	}
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

/* The key as users see it: an object with one member per group column. */
Jsonb *
jobstate_key_to_jsonb(JobstateKeySpec *spec, ArrayType *stored)
{
	JsonbParseState *state = NULL;
	JsonbValue	null_value;
	Datum	   *values;
	bool	   *isnull;
	int			n = deconstruct(stored, &values, &isnull);
	int			nest = 0;
	int			i;

	if (spec->shown_by_settings)
		nest = jobstate_settings_begin();
	null_value.type = jbvNull;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < n; i++)
	{
		push_string(&state, WJB_KEY, NameStr(spec->column[i].name));
		if (isnull[i])
			(void) pushJsonbValue(&state, WJB_VALUE, &null_value);
		else
			push_value(&state, &spec->column[i], TextDatumGetCString(values[i]));
	}
	if (spec->shown_by_settings)
		jobstate_settings_end(nest);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static int
find_column(JobstateKeySpec *spec, JsonbValue *name)
{
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		const char *have = NameStr(spec->column[i].name);

		if (strlen(have) == name->val.string.len &&
			memcmp(have, name->val.string.val, name->val.string.len) == 0)
			return i;
	}
	return -1;
}

/* A scalar's text, NULL for null; an array or object is its JSON text. */
static char *
scalar_text(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		default:
			return JsonbToCString(NULL, value->val.binary.data,
								  value->val.binary.len);
	}
}

/*
 * Reads an object that names some or all group columns.  Returns which ones,
 * as a bit mask; the others are null.
 */
uint32
jobstate_key_from_jsonb(JobstateKeySpec *spec, Jsonb *json, Oid target,
						JobstateKeyValues *key)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	uint32		given = 0;
	int			i = -1;

	memset(key->isnull, true, sizeof(key->isnull));
	if (!JB_ROOT_IS_OBJECT(json))
		jobstate_error_group_key_shape();

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			i = find_column(spec, &value);
			if (i < 0)
				jobstate_error_group_key_column(target,
												pnstrdup(value.val.string.val,
														 value.val.string.len));
			given |= 1u << i;
		}
		else if (token == WJB_VALUE)
		{
			JobstateKeyColumn *column = &spec->column[i];
			char	   *text = scalar_text(&value);

			key->isnull[i] = text == NULL;
			if (text != NULL)
				key->value[i] = InputFunctionCall(&column->input, text,
												  column->ioparam, -1);
		}
	}
	return given;
}
