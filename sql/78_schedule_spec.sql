-- schedule: when ---------------------------------------------------------------------
--
-- A specification is one of
--   every 15m               s, m, h, d or w, of fixed length
--   daily 03:00, 15:30      times of day
--   */15 6-18 * jan-jun mon-fri, or @hourly, @daily, @weekly, @monthly, @yearly
-- Everything is UTC, so a day has 24 hours and nothing depends on a session's
-- settings; that is why these functions are immutable.

-- schedule_bad_spec: words every refusal of a specification.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_bad_spec(spec text, problem text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'invalid schedule "%"', spec
        USING ERRCODE = 'invalid_parameter_value', DETAIL = problem,
              HINT = 'Write "every 15m", "daily 03:00, 15:30" or the five fields of cron: minute hour day month weekday.';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_bad_spec(text, text)
    IS 'internal: raises 22023 for a specification that cannot be read';

-- schedule_field_value: a number, or one of a field's names; NULL if it is neither,
-- or out of bounds.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_field_value(value text, low integer, high integer, names text[])
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v FROM (SELECT CASE WHEN value ~ '^\d{1,2}$' THEN value::integer
                               ELSE array_position(names, lower(value)) + low - 1 END) n (v)
     WHERE v BETWEEN low AND high
$$;
COMMENT ON FUNCTION jobstate.schedule_field_value(text, integer, integer, text[])
    IS 'internal: a value of a field of cron';

-- schedule_field: the values that a field stands for: lists of *, n, n-m, each with
-- a step if wanted; n/step goes on to the end.  An empty array if it is not valid.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_field(field text, low integer, high integer, names text[] DEFAULT '{}')
RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text;
    piece text[];
    first integer;
    last integer;
    result integer[] := '{}';
BEGIN
    FOREACH part IN ARRAY string_to_array(field, ',') LOOP
        piece := regexp_match(part, '^(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d{1,2}))?$');
        first := CASE WHEN piece[1] IS NOT NULL THEN low
                      ELSE jobstate.schedule_field_value(piece[2], low, high, names) END;
        last := CASE WHEN piece[3] IS NOT NULL THEN jobstate.schedule_field_value(piece[3], low, high, names)
                     WHEN piece[1] IS NOT NULL OR piece[4] IS NOT NULL THEN greatest(first, high - (high = 7)::integer)
                     ELSE first END;
        IF last = 0 AND first > 0 AND high = 7 THEN
            last := 7;                  -- as in fri-sun
        END IF;
        IF first IS NULL OR last IS NULL OR first > last OR piece[4]::integer = 0 THEN
            RETURN '{}';
        END IF;
        result := result || ARRAY(SELECT generate_series(first, last, coalesce(piece[4]::integer, 1)));
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_field(text, integer, integer, text[])
    IS 'internal: the values of a field of cron, or none if it is not valid';

-- schedule_parse: a specification taken apart; raises 22023 if it cannot be read.
-- every is an interval in seconds, else the fields are what cron matches.
-- any_day says that days match if both fields do, as they do unless both are limited.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_parse(spec text, OUT every numeric, OUT times time[],
    OUT minutes integer[], OUT hours integer[], OUT days integer[], OUT months integer[],
    OUT weekdays integer[], OUT any_day boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plain CONSTANT text := lower(btrim(regexp_replace(spec, '\s+', ' ', 'g')));
    piece text[];
    problem text;
BEGIN
    PERFORM jobstate.require_argument('spec', spec);
    IF plain ~ '^every( |$)' THEN
        piece := regexp_match(plain, '^every (\d{1,9}) ?'
            '(?:(s)(?:ecs?|econds?)?|(m)(?:ins?|inutes?)?|(h)(?:ours?)?|(d)(?:ays?)?|(w)(?:eeks?)?)$');
        every := piece[1]::numeric * CASE coalesce(piece[2], piece[3], piece[4], piece[5], piece[6])
            WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 WHEN 'w' THEN 604800 END;
        IF every IS NULL OR every NOT BETWEEN 1 AND 3155760000 THEN
            problem := 'An interval is a number above zero of s, m, h, d or w, and at most a hundred years.';
        END IF;
    ELSIF plain ~ '^daily( |$)' THEN
        IF plain !~ '^daily ([01]?\d|2[0-3]):[0-5]\d( ?, ?([01]?\d|2[0-3]):[0-5]\d)*$' THEN
            problem := 'Times of day are written 03:00, with commas between them.';
        ELSE
            times := ARRAY(SELECT DISTINCT btrim(t)::time FROM unnest(string_to_array(substr(plain, 7), ',')) t ORDER BY 1);
        END IF;
    ELSE
        SELECT c.* INTO problem, minutes, hours, days, months, weekdays, any_day
          FROM jobstate.schedule_parse_cron(plain) c;
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM jobstate.schedule_bad_spec(spec, problem);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_parse(text)
    IS 'internal: a specification taken apart; raises 22023 if it cannot be read';

-- schedule_parse_cron: the five fields.  7 is Sunday too.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_parse_cron(plain text, OUT problem text, OUT minutes integer[],
    OUT hours integer[], OUT days integer[], OUT months integer[], OUT weekdays integer[], OUT any_day boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    month_names CONSTANT text[] := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    day_names CONSTANT text[] := '{sun,mon,tue,wed,thu,fri,sat}';
    macros CONSTANT jsonb := '{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}';
    field CONSTANT text[] := string_to_array(coalesce(macros ->> plain, plain), ' ');
    longest CONSTANT integer[] := '{31,29,31,30,31,30,31,31,30,31,30,31}';
BEGIN
    IF cardinality(field) <> 5 THEN
        problem := format('There are %s fields instead of five.', cardinality(field));
        RETURN;
    END IF;
    minutes := jobstate.schedule_field(field[1], 0, 59);
    hours := jobstate.schedule_field(field[2], 0, 23);
    days := jobstate.schedule_field(field[3], 1, 31);
    months := jobstate.schedule_field(field[4], 1, 12, month_names);
    weekdays := ARRAY(SELECT DISTINCT d % 7 FROM unnest(jobstate.schedule_field(field[5], 0, 7, day_names)) d ORDER BY 1);
    any_day := NOT starts_with(field[3], '*') AND NOT starts_with(field[5], '*');
    SELECT format('"%s" is no %s.', field[n], name) INTO problem
      FROM (VALUES (1, 'minute', minutes), (2, 'hour', hours), (3, 'day of a month', days),
                   (4, 'month', months), (5, 'day of a week', weekdays)) f (n, name, meant)
     WHERE cardinality(meant) = 0 ORDER BY n LIMIT 1;
    IF problem IS NULL AND NOT any_day
       AND NOT EXISTS (SELECT FROM unnest(months) m, unnest(days) d WHERE d <= longest[m]) THEN
        problem := 'There is no such day in these months.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_parse_cron(text)
    IS 'internal: the five fields of cron, or what is wrong with them';

-- schedule_next_cron: the first minute at or after a UTC time that the fields match.
-- The longest way to a match is from one 29 February to the next that is the right
-- day of the week, 40 years.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_next_cron(start timestamp, minutes integer[], hours integer[], days integer[],
    months integer[], weekdays integer[], any_day boolean)
RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    day date := start::date;
    horizon CONSTANT date := day + 41 * 366;
    day_matches boolean;
    weekday_matches boolean;
    at time;
BEGIN
    WHILE day < horizon LOOP
        IF extract(month FROM day) <> ALL (months) THEN
            day := date_trunc('month', day::timestamp) + interval '1 month';
            CONTINUE;
        END IF;
        day_matches := extract(day FROM day) = ANY (days);
        weekday_matches := extract(dow FROM day) = ANY (weekdays);
        IF day_matches AND weekday_matches OR any_day AND (day_matches OR weekday_matches) THEN
            SELECT min(make_time(h, m, 0)) INTO at FROM unnest(hours) h, unnest(minutes) m
             WHERE day > start::date OR make_time(h, m, 0) >= start::time;
            IF at IS NOT NULL THEN
                RETURN day + at;
            END IF;
        END IF;
        day := day + 1;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_next_cron(timestamp, integer[], integer[], integer[], integer[], integer[], boolean)
    IS 'internal: the first minute at or after a time that a cron expression matches';

-- schedule_next: when a schedule is next due, if it last ran then.  What never ran
-- is due at once.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_next(spec text, after timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    start CONSTANT timestamp := after AT TIME ZONE 'UTC';
    found_at timestamp;
BEGIN
    SELECT s.* INTO p FROM jobstate.schedule_parse(spec) s;
    IF after IS NULL THEN
        RETURN '-infinity';
    ELSIF NOT isfinite(after) THEN
        RETURN after;
    ELSIF p.every IS NOT NULL THEN
        found_at := start + make_interval(secs => p.every::double precision);
    ELSIF p.times IS NOT NULL THEN
        SELECT min(d + t) INTO found_at FROM unnest(ARRAY[start::date, start::date + 1]) d, unnest(p.times) t
         WHERE d + t > start;
    ELSE
        found_at := jobstate.schedule_next_cron(date_trunc('minute', start) + interval '1 minute',
                        p.minutes, p.hours, p.days, p.months, p.weekdays, p.any_day);
    END IF;
    RETURN found_at AT TIME ZONE 'UTC';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_next(text, timestamptz)
    IS 'when a schedule is due that last ran at that time: the first moment after it; what never ran is due since ever';

-- schedule_is_due: the same as a question.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_is_due(spec text, last_run timestamptz, at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jobstate.schedule_next(spec, last_run) <= at, false)
$$;
COMMENT ON FUNCTION jobstate.schedule_is_due(text, timestamptz, timestamptz)
    IS 'whether a schedule that last ran then is due at some time, which is now';
