/*
 * src/storefields.c
 *
 * What the fields of a record of the store may look like.
 *
 * The check of a domain, so no statement of any client can leave a record
 * that its readers could not decode.  In C because it runs with every write:
 * as an expression it costs more than the write itself.  It looks at the top
 * level once, and into "progress" and "artifacts".
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "storefields.h"

PG_FUNCTION_INFO_V1(jobstate_store_sound);

/* What a member may be, besides null and absent */
typedef enum StoreShape
{
	STORE_OBJECT,
	STORE_TEXT,
	STORE_TIME,
	STORE_PERCENT,
	STORE_PROGRESS,
	STORE_TEXTS,				/* an object whose members are texts */
	STORE_NEVER
} StoreShape;

typedef struct StoreMember
{
	const char *name;
	StoreShape	shape;
} StoreMember;

static const StoreMember record_members[] = {
	{"status", STORE_NEVER},
	{"input", STORE_OBJECT},
	{"progress", STORE_PROGRESS},
	{"result", STORE_OBJECT},
	{"error", STORE_TEXT},
	{"created_at", STORE_TIME},
	{"completed_at", STORE_TIME},
	{"audio_info", STORE_OBJECT},
	{"artifacts", STORE_TEXTS},
	{"artifacts_error", STORE_TEXT},
	{NULL}
};

static const StoreMember progress_members[] = {
	{"stage", STORE_TEXT},
	{"percent_complete", STORE_PERCENT},
	{"message", STORE_TEXT},
	{"started_at", STORE_TIME},
	{"updated_at", STORE_TIME},
	{NULL}
};

static const char *const shape_names[] = {
	"an object", "a string", "an ISO 8601 timestamp", "a number from 0 to 100",
	"an object", "an object of strings", "left to the column state_id"
};

static bool fields_are_sound(JsonbContainer *fields, const StoreMember *members);

static void
refuse_member(JsonbValue *name, StoreShape shape)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("invalid field \"%.*s\" of a record of the store",
					name->val.string.len, name->val.string.val),
			 shape == STORE_NEVER ?
			 errdetail("The field must be %s.", shape_names[shape]) :
			 errdetail("The field must be %s, or null.", shape_names[shape])));
}

/* n digits as a number, or -1; moves on behind them */
static int
read_digits(const char **at, const char *end, int n)
{
	int			value = 0;

	if (end - *at < n)
		return -1;
	for (; n > 0; n--, (*at)++)
	{
		if (**at < '0' || **at > '9')
			return -1;
		value = value * 10 + (**at - '0');
	}
	return value;
}

static bool
skip_char(const char **at, const char *end, const char *one_of)
{
	if (*at == end || strchr(one_of, **at) == NULL)
		return false;
	(*at)++;
	return true;
}

static bool
is_date(const char **at, const char *end)
{
	int			year = read_digits(at, end, 4);
	int			month = skip_char(at, end, "-") ? read_digits(at, end, 2) : -1;
	int			day = skip_char(at, end, "-") ? read_digits(at, end, 2) : -1;

	return year >= 1 && month >= 1 && month <= MONTHS_PER_YEAR &&
		day >= 1 && day <= day_tab[isleap(year)][month - 1];
}

/* HH:MM, HH:MM:SS or HH:MM:SS.ffffff */
static bool
is_time_of_day(const char **at, const char *end)
{
	int			hour = read_digits(at, end, 2);
	int			minute = skip_char(at, end, ":") ? read_digits(at, end, 2) : -1;
	int			second = skip_char(at, end, ":") ? read_digits(at, end, 2) : 0;

	if (skip_char(at, end, "."))
	{
		if (read_digits(at, end, 1) < 0)
			return false;
		while (*at < end && read_digits(at, end, 1) >= 0)
			;
	}
	return hour >= 0 && hour < HOURS_PER_DAY && minute >= 0 && minute < MINS_PER_HOUR &&
		second >= 0 && second < SECS_PER_MINUTE;
}

/* Nothing, Z, +HH, +HHMM or +HH:MM */
static bool
is_zone(const char **at, const char *end)
{
	int			hour;
	int			minute = 0;

	if (*at == end || skip_char(at, end, "Zz"))
		return true;
	if (!skip_char(at, end, "+-"))
		return false;
	hour = read_digits(at, end, 2);
	if (*at < end)
	{
		(void) skip_char(at, end, ":");
		minute = read_digits(at, end, 2);
	}
	return hour >= 0 && hour < MAX_TZDISP_HOUR && minute >= 0 && minute < MINS_PER_HOUR;
}

/* A timestamp that every reader can parse, the server in any time zone among them */
static bool
is_timestamp(const char *at, int len)
{
	const char *end = at + len;

	return len <= MAXDATELEN / 2 && is_date(&at, end) && skip_char(&at, end, "Tt ") &&
		is_time_of_day(&at, end) && is_zone(&at, end) && at == end;
}

static bool
is_percent(Numeric number)
{
	Numeric		zero = int64_to_numeric(0);
	Numeric		hundred = int64_to_numeric(100);

	return DatumGetBool(DirectFunctionCall2(numeric_ge, NumericGetDatum(number),
											NumericGetDatum(zero))) &&
		DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(number),
										 NumericGetDatum(hundred)));
}

static bool
is_object(JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

/* Are all members of the object strings or null? */
static bool
holds_texts(JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue	value;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		if (token == WJB_VALUE && value.type != jbvString && value.type != jbvNull)
			return false;
	return true;
}

static bool
has_shape(JsonbValue *value, StoreShape shape)
{
	if (shape == STORE_NEVER)
		return false;
	if (value->type == jbvNull)
		return true;
	switch (shape)
	{
		case STORE_OBJECT:
			return is_object(value);
		case STORE_TEXT:
			return value->type == jbvString;
		case STORE_TIME:
			return value->type == jbvString &&
				is_timestamp(value->val.string.val, value->val.string.len);
		case STORE_PERCENT:
			return value->type == jbvNumeric && is_percent(value->val.numeric);
		case STORE_PROGRESS:
			return is_object(value) &&
				fields_are_sound(value->val.binary.data, progress_members);
		case STORE_TEXTS:
			return is_object(value) && holds_texts(value->val.binary.data);
		default:
			return false;
	}
}

static const StoreMember *
find_member(JsonbValue *name, const StoreMember *members)
{
	for (; members->name != NULL; members++)
		if (strncmp(members->name, name->val.string.val, name->val.string.len) == 0 &&
			members->name[name->val.string.len] == '\0')
			return members;
	return NULL;
}

/* Refuses the first member that has not the shape it must have. */
static bool
fields_are_sound(JsonbContainer *fields, const StoreMember *members)
{
	JsonbIterator *it = JsonbIteratorInit(fields);
	const StoreMember *member = NULL;
	JsonbValue	name = {0};
	JsonbValue	value;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = value;
			member = find_member(&name, members);
		}
		else if (token == WJB_VALUE && member != NULL && !has_shape(&value, member->shape))
			refuse_member(&name, member->shape);
	}
	return true;
}

/* Returns if the fields are as they must be, or names one that is not. */
void
jobstate_store_check_fields(Jsonb *fields)
{
	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("a record of the store must be a JSON object")));
	(void) fields_are_sound(&fields->root, record_members);
}

/* store_sound(fields) returns boolean: true, or an error that names the field */
Datum
jobstate_store_sound(PG_FUNCTION_ARGS)
{
	jobstate_store_check_fields(PG_GETARG_JSONB_P(0));
	PG_RETURN_BOOL(true);
}
