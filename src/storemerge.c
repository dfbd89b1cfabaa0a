/*
 * src/storemerge.c
 *
 * The fields of a record, merged with those that an update gives.
 *
 * Null leaves a field as it is.  The status is no field: it is taken out on the
 * way in, and shown on the way out.  Both forms come of one merge, because taking
 * a record to pieces costs more than anything else that an update does.
 */
#include "postgres.h"

#include "storemerge.h"

static const char *const status_names[] = {
	"pending", "queued", "preprocessing", "transcribing", "postprocessing",
	"completed", "failed"
};

static bool
is_string(JsonbValue *value, const char *string)
{
	return value->val.string.len == strlen(string) &&
		memcmp(value->val.string.val, string, value->val.string.len) == 0;
}

/* States have the numbers 1 to 7; 0: there is no such status. */
static int
state_of(JsonbValue *status)
{
	int			i;

	for (i = 0; status->type == jbvString && i < lengthof(status_names); i++)
		if (is_string(status, status_names[i]))
			return i + 1;
	return 0;
}

static Numeric
percent_of(Jsonb *fields)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&fields->root, "progress",
													 strlen("progress"), NULL);

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		return NULL;
	value = getKeyJsonValueFromContainer(value->val.binary.data, "percent_complete",
										 strlen("percent_complete"), NULL);
	return value != NULL && value->type == jbvNumeric ? value->val.numeric : NULL;
}

/* Looks at what an update gives, which is an object. */
void
jobstate_store_read_given(JobstateStoreGiven *given, Jsonb *fields)
{
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbValue	value;
	JsonbIteratorToken token;
	bool		is_status = false;

	memset(given, 0, sizeof(*given));
	given->fields = fields;
	given->percent = percent_of(fields);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			is_status = is_string(&value, "status");
			given->has_id |= is_string(&value, "id");
		}
		else if (token == WJB_VALUE && value.type != jbvNull)
		{
			given->nfields++;
			if (!is_status)
				continue;
			given->status = palloc(sizeof(JsonbValue));
			*given->status = value;
			given->state_id = state_of(&value);
		}
	}
}

/* Of two members of one name the later one stays. */
static void
push_members(JsonbParseState **state, JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue	value;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		if (token == WJB_KEY || token == WJB_VALUE)
			(void) pushJsonbValue(state, token, &value);
}

static void
push_given(JsonbParseState **state, JobstateStoreGiven *given, bool without_progress)
{
	JsonbIterator *it = JsonbIteratorInit(&given->fields->root);
	JsonbValue	name = {0};
	JsonbValue	value;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value;
		if (token != WJB_VALUE || value.type == jbvNull || is_string(&name, "status") ||
			(without_progress && is_string(&name, "progress")))
			continue;
		(void) pushJsonbValue(state, WJB_KEY, &name);
		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
}

/* In the order in which members are stored: shorter names first */
static bool
precedes(JsonbValue *name, JsonbValue *other)
{
	if (name->val.string.len != other->val.string.len)
		return name->val.string.len < other->val.string.len;
	return memcmp(name->val.string.val, other->val.string.val, name->val.string.len) < 0;
}

static void
set_string(JsonbValue *value, const char *string)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, string);
	value->val.string.len = strlen(string);
}

/* The object with a member "status", which it does not have yet */
static Jsonb *
with_status(JsonbValue *object, int state_id)
{
	JsonbValue	shown = *object;
	JsonbPair	status = {0};
	int			n = object->val.object.nPairs;
	int			place = 0;

	set_string(&status.key, "status");
	set_string(&status.value, status_names[state_id - 1]);
	shown.val.object.pairs = palloc(sizeof(JsonbPair) * (n + 1));
	shown.val.object.nPairs = n + 1;
	while (place < n && precedes(&object->val.object.pairs[place].key, &status.key))
		place++;
	memcpy(shown.val.object.pairs, object->val.object.pairs, sizeof(JsonbPair) * place);
	shown.val.object.pairs[place] = status;
	memcpy(&shown.val.object.pairs[place + 1], &object->val.object.pairs[place],
		   sizeof(JsonbPair) * (n - place));
	return JsonbValueToJsonb(&shown);
}

/*
 * The fields that are to be stored, and the record that is to be shown if it has
 * this state.
 */
void
jobstate_store_merge(Jsonb *fields, JobstateStoreGiven *given, bool without_progress,
					 int state_id, Jsonb **merged, Jsonb **record)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_members(&state, &fields->root);
	push_given(&state, given, without_progress);
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	*merged = JsonbValueToJsonb(object);
	*record = with_status(object, state_id);
}
