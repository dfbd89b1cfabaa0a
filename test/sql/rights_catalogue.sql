-- rights_catalogue: who may do what, as a list to review.
\set SHOW_CONTEXT never
-- those of the families have lists of their own
CREATE VIEW pg_temp.family AS
    SELECT p.oid AS fn FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace
       AND (p.proname ~ '^(upload|install|queue_|store_|maintain_store$|ledger_|schedule_|maintain_(ledger|schedule)$|job_status$|apply_|operation_|task_|fold_(states|rollout|variant)$|maintain_apply$)' OR p.oid IN (SELECT f.fn FROM jobstate.queue_functions() f));
-- functions that everybody may call: they read, and ask for the table's rights
SELECT p.oid::regprocedure AS public_function FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.oid NOT IN (SELECT fn FROM pg_temp.family)
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- what writes: the owner of the database may call it, and hand it out
SELECT p.oid::regprocedure AS owner_function, a.is_grantable
  FROM pg_proc p, aclexplode(p.proacl) a
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.oid NOT IN (SELECT fn FROM pg_temp.family) AND a.grantee = 'pg_database_owner'::regrole
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- what nobody but the extension's owner may call
SELECT p.oid::regprocedure AS internal_function FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.oid NOT IN (SELECT fn FROM pg_temp.family)
   AND NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner)
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- no function that is named for writing is among the first, families included: no row
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
   AND (p.proname ~ '^(define|drop|attach|detach|rebuild|recount|uncount|fold$|prune|maintain|transition|take|install|upload_(create|mark|take|clear|finish|retry|gate|reprocess|replace|rescue|grant|adopt|heartbeat|post))'
        OR p.proname ~ '^(enqueue|claim|complete|heartbeat|fail|snooze|cancel|retry|discard|dlq_|set_priority|move_queue|pause|resume|promote|rescue|rotate|queue_(define|grant|install|hold$|bury|cancel|relocate|restart|revive|keys_|take_keys|tail|position|sweep|prune|slot_|ring_))'
        OR p.proname ~ '^(apply_(install|create|add|hold$|take|ask|answer|move|restart|settle|orphan|control|stop|start|cancel|release|request$|request_done|derive|define|use|attach|grant|expire|strand|obey|reap|lock)|operation_(install|claim|grab|lease|hold$|heartbeat|release|progress|end|complete|stop|cancel|revert|fail|conclude)|task_(install|progress))'
        OR p.proname ~ '^(ledger_(define|grant|install|mark|claim|take|fail|release|heartbeat|reset|forget|retain|rename|begin|end|close|hold|expire|rescue|record)|schedule_(define|grant|install|drop|pause|due|finish|heartbeat|enqueue|rescue))')
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
 ORDER BY p.oid::regprocedure::text COLLATE "C";

-- functions with their owner's rights: each has a search_path of its own
SELECT p.oid::regprocedure AS security_definer, p.proconfig FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.prosecdef
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- and so has every other one that is not C and may write: no row
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.pronamespace = 'jobstate'::regnamespace AND l.lanname <> 'c' AND p.provolatile = 'v'
   AND 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(p.proconfig, '{none}'))
 ORDER BY p.oid::regprocedure::text COLLATE "C";
-- no function of a family has its owner's rights: no row
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.oid IN (SELECT fn FROM pg_temp.family) AND p.prosecdef;

-- tables, views and sequences of the extension, and what others may do with them
SELECT c.relname, c.relkind, a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS rights
  FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
       LEFT JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) WHERE grantee <> c.relowner) a ON true
 WHERE c.relnamespace = 'jobstate'::regnamespace AND c.relkind IN ('r', 'v', 'S', 'm', 'p') AND c.relname !~ '^upload'
 GROUP BY 1, 2, 3 ORDER BY c.relkind, c.relname COLLATE "C", 3;
-- the schema
SELECT a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS rights
  FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'jobstate' AND a.grantee <> n.nspowner GROUP BY 1 ORDER BY 1;
-- only superusers may switch the worker off
SELECT jobstate.fold() >= 0 AS loaded;
SELECT name, context, vartype, boot_val FROM pg_settings WHERE name LIKE 'jobstate.%' ORDER BY name;
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SET jobstate.auto_maintain = off;                                                -- fails
CREATE TABLE jobstate.mine ();                                                   -- fails
RESET ROLE;
DROP ROLE regress_nobody;
