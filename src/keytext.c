/*
 * src/keytext.c
 *
 * Group keys as text, as the log holds them, and as jsonb, as users see them.
 *
 * The text is the columns' values with a comma between them, \N for null, and
 * a backslash before a backslash or comma that belongs to a value.  It is
 * written under fixed settings, so that every backend reads back the value that
 * another one wrote; where the datum is a number, that is the text.  Some types
 * have equal values with different text (numeric 1.0 and 1.00): such keys are
 * brought together when they are read, by value; their stored hash is the same.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/numeric.h"

#include "error.h"
#include "keytext.h"

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
		{"search_path", "pg_catalog, pg_temp"},
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

/*
 * Gives a value the header that the log stores: one byte where it is short
 * enough.  The caller left VARHDRSZ bytes before the value.
 */
text *
jobstate_packed(char *stored, Size length)
{
	if (length + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		memmove(stored + VARHDRSZ_SHORT, stored + VARHDRSZ, length);
		SET_VARSIZE_SHORT(stored, length + VARHDRSZ_SHORT);
	}
	else
		SET_VARSIZE(stored, length + VARHDRSZ);
	return (text *) stored;
}

/* A number that compares like the first eight bytes of a key do. */
uint64
jobstate_key_prefix(text *stored)
{
	uint64		prefix = 0;

	memcpy(&prefix, VARDATA_ANY(stored), Min(VARSIZE_ANY_EXHDR(stored), sizeof(prefix)));
	return pg_ntoh64(prefix);
}

bool
jobstate_key_same(text *a, text *b)
{
	Size		length = VARSIZE_ANY_EXHDR(a);

	return length == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), length) == 0;
}

/* The order in which keys are written. */
int
jobstate_key_compare(text *a, text *b)
{
	int			x = VARSIZE_ANY_EXHDR(a);
	int			y = VARSIZE_ANY_EXHDR(b);
	int			cmp = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(x, y));

	return cmp != 0 ? cmp : x - y;
}

static void
append_number(StringInfo stored, int64 number)
{
	enlargeStringInfo(stored, MAXINT8LEN + 1);
	stored->len += pg_lltoa(number, stored->data + stored->len);
}

static void
append_string(StringInfo stored, const char *string)
{
	for (; *string != '\0'; string++)
	{
		if (*string == '\\' || *string == ',')
			appendStringInfoCharMacro(stored, '\\');
		appendStringInfoCharMacro(stored, *string);
	}
}

static void
append_column(StringInfo stored, JobstateKeyColumn *column, Datum value)
{
	char	   *string;

	if (column->by_number)
	{
		append_number(stored, jobstate_key_number(column, value));
		return;
	}
	string = OutputFunctionCall(&column->output, value);
	if (strlen(string) > JOBSTATE_MAX_KEY_BYTES)
		jobstate_error_key_too_long(strlen(string), JOBSTATE_MAX_KEY_BYTES);
	append_string(stored, string);
}

/* The key as it stands in the log. */
text *
jobstate_key_to_text(JobstateKeySpec *spec, JobstateKeyValues *key)
{
	StringInfoData stored;
	int			nest = 0;
	int			i;

	initStringInfo(&stored);
	stored.len = VARHDRSZ;
	if (spec->settings)
		nest = jobstate_settings_begin();
	for (i = 0; i < spec->ncolumns; i++)
	{
		if (i > 0)
			appendStringInfoChar(&stored, ',');
		if (key->isnull[i])
			appendStringInfoString(&stored, "\\N");
		else
			append_column(&stored, &spec->column[i], key->value[i]);
	}
	if (spec->settings)
		jobstate_settings_end(nest);

	if (stored.len - VARHDRSZ > JOBSTATE_MAX_KEY_BYTES)
		jobstate_error_key_too_long(stored.len - VARHDRSZ, JOBSTATE_MAX_KEY_BYTES);
	return jobstate_packed(stored.data, stored.len - VARHDRSZ);
}

/* Copies one column's text and returns where it ends; value is NULL for null. */
static const char *
read_column(const char *at, const char *end, char **value)
{
	char	   *to = *value = palloc(end - at + 1);

	if (end - at >= 2 && at[0] == '\\' && at[1] == 'N')
	{
		*value = NULL;
		return at + 2;
	}
	while (at < end && *at != ',')
	{
		if (*at == '\\' && at + 1 < end)
			at++;
		*to++ = *at++;
	}
	*to = '\0';
	return at;
}

/* The texts of the columns, NULL for null. */
static void
split(JobstateKeySpec *spec, text *stored, char **value)
{
	const char *at = VARDATA_ANY(stored);
	const char *end = at + VARSIZE_ANY_EXHDR(stored);
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		if (i > 0 && (at == end || *at++ != ','))
			jobstate_error_damaged("columns", stored);
		at = read_column(at, end, &value[i]);
	}
	if (at != end)
		jobstate_error_damaged("columns", stored);
}

static Datum
number_to_datum(JobstateKeyColumn *column, const char *string)
{
	char	   *end;
	int64		number = strtoi64(string, &end, 10);

	if (*string == '\0' || *end != '\0')
		jobstate_error_damaged("columns", cstring_to_text(string));

	if (column->is_unsigned)
		return ObjectIdGetDatum((Oid) number);
	if (column->typlen == sizeof(int64))
		return Int64GetDatum(number);
	return column->typlen == sizeof(int32) ? Int32GetDatum((int32) number) :
		Int16GetDatum((int16) number);
}

/* The inverse of jobstate_key_to_text(). */
void
jobstate_key_from_text(JobstateKeySpec *spec, text *stored, JobstateKeyValues *key)
{
	char	   *string[JOBSTATE_MAX_GROUP];
	int			nest = 0;
	int			i;

	split(spec, stored, string);
	if (spec->settings)
		nest = jobstate_settings_begin();
	for (i = 0; i < spec->ncolumns; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];

		key->isnull[i] = string[i] == NULL;
		if (key->isnull[i])
			key->value[i] = (Datum) 0;
		else if (column->by_number)
			key->value[i] = number_to_datum(column, string[i]);
		else
			key->value[i] = InputFunctionCall(&column->input, string[i],
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
	{
		Datum		datum = number_to_datum(column, string);

		if (!column->json_number)
			string = OutputFunctionCall(&column->output, datum);
	}
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
jobstate_key_to_jsonb(JobstateKeySpec *spec, text *stored)
{
	JsonbParseState *state = NULL;
	JsonbValue	null_value;
	char	   *string[JOBSTATE_MAX_GROUP] = {NULL};
	int			nest = 0;
	int			i;

	split(spec, stored, string);
	if (spec->shown_by_settings)
		nest = jobstate_settings_begin();
	null_value.type = jbvNull;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < spec->ncolumns; i++)
	{
		push_string(&state, WJB_KEY, NameStr(spec->column[i].name));
		if (string[i] == NULL)
			(void) pushJsonbValue(&state, WJB_VALUE, &null_value);
		else
			push_value(&state, &spec->column[i], string[i]);
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
