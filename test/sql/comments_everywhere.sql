-- comments_everywhere: every object of the extension says what it is.  No row, no
-- object without a comment.
WITH member AS (
    SELECT d.classid, d.objid FROM pg_depend d
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobstate')),
-- what is a part of another object is said there
part AS (
    SELECT 'pg_type'::regclass AS classid, t.oid AS objid FROM pg_type t WHERE t.typrelid <> 0 OR t.typelem <> 0
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger)
SELECT pg_describe_object(m.classid, m.objid, 0) AS without_comment
  FROM member m
 WHERE (m.classid, m.objid) NOT IN (SELECT classid, objid FROM part)
   AND NOT EXISTS (SELECT FROM pg_description c WHERE c.classoid = m.classid AND c.objoid = m.objid AND c.objsubid = 0)
 ORDER BY 1;

-- the extension itself, and that the question was a real one
SELECT obj_description(oid, 'pg_extension') IS NOT NULL AS described FROM pg_extension WHERE extname = 'jobstate';
SELECT count(*) > 50 AS many FROM pg_depend d
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobstate');

-- comments begin in lower case and are no sentences that end
SELECT pg_describe_object(c.classoid, c.objoid, 0) AS object, c.description
  FROM pg_description c JOIN pg_depend d ON d.classid = c.classoid AND d.objid = c.objoid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.objsubid = 0
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobstate')
   AND (c.description ~ '^[[:upper:]][[:lower:]]' OR c.description ~ '[.\s]$')
 ORDER BY 1;
-- no argument of a function is without a name
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.pronargs > 0 AND (p.proargnames IS NULL OR '' = ANY (p.proargnames)) ORDER BY 1;
