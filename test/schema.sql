-- Everything that a catalogue says of schema jobstate and of the extension's members, a line each and
-- without oids, so that two databases can be compared by diff: what CREATE EXTENSION makes, and what
-- ALTER EXTENSION UPDATE leaves. Families that are installed are told of too.
\pset format unaligned
\pset tuples_only on
\pset pager off
SET search_path = pg_catalog;

CREATE TEMP VIEW relation AS
    SELECT c.* FROM pg_class c WHERE c.relnamespace = 'jobstate'::regnamespace;
CREATE TEMP VIEW member AS
    SELECT d.classid, d.objid FROM pg_depend d
     WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobstate');
-- An access list has no order that means anything.
CREATE FUNCTION pg_temp.sorted(acl aclitem[]) RETURNS text LANGUAGE sql
    AS $$ SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(acl) a $$;

-- the extension: configuration tables with their conditions, members
SELECT 'extension', extversion <> '', extrelocatable, extowner::regrole FROM pg_extension WHERE extname = 'jobstate';
SELECT 'config', t.relid::regclass, t.condition
  FROM pg_extension e, unnest(e.extconfig, e.extcondition) t (relid, condition)
 WHERE e.extname = 'jobstate' ORDER BY t.relid::regclass::text;
SELECT 'member', i.type, i.identity FROM member m, pg_identify_object(m.classid, m.objid, 0) i
 ORDER BY 2, 3;
SELECT 'depends', pg_describe_object(d.classid, d.objid, d.objsubid), 'on',
       pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), d.deptype
  FROM pg_depend d JOIN member m USING (classid, objid) WHERE d.deptype <> 'e' ORDER BY 2, 4, 5;
SELECT 'initial rights', i.identity, p.objsubid, p.privtype, pg_temp.sorted(p.initprivs)
  FROM pg_init_privs p JOIN member m ON (p.classoid, p.objoid) = (m.classid, m.objid),
       pg_identify_object(p.classoid, p.objoid, p.objsubid) i
 ORDER BY 2, 3;
SELECT 'schema', nspname, nspowner::regrole, pg_temp.sorted(nspacl), obj_description(oid, 'pg_namespace')
  FROM pg_namespace WHERE nspname = 'jobstate';

-- functions: the definition is that of pg_get_functiondef, with the source as it is written
SELECT 'function', p.oid::regprocedure, p.proowner::regrole, pg_temp.sorted(p.proacl), p.procost, p.prorows,
       obj_description(p.oid, 'pg_proc') || E'\n',
       CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END
  FROM pg_proc p WHERE p.pronamespace = 'jobstate'::regnamespace ORDER BY p.oid::regprocedure::text;
SELECT 'event trigger', e.evtname, e.evtevent, e.evtowner::regrole, e.evtfoid::regprocedure, e.evtenabled, e.evttags,
       obj_description(e.oid, 'pg_event_trigger')
  FROM pg_event_trigger e JOIN member m ON (m.classid, m.objid) = ('pg_event_trigger'::regclass, e.oid) ORDER BY 2;
SELECT 'type', t.oid::regtype, t.typtype, t.typowner::regrole, pg_temp.sorted(t.typacl), t.typnotnull, t.typdefault,
       t.typbasetype::regtype, (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
       obj_description(t.oid, 'pg_type')
  FROM pg_type t WHERE t.typnamespace = 'jobstate'::regnamespace ORDER BY t.oid::regtype::text;

-- tables, views, sequences; pg_attver is the server's own stamp of a column, and the names that 18 gives to
-- what is NOT NULL tell how it came to be
SELECT 'relation', r.oid::regclass, r.relkind, r.relowner::regrole, r.relpersistence, r.reloptions, pg_temp.sorted(r.relacl),
       r.relrowsecurity, r.relforcerowsecurity, r.relreplident, pg_get_partkeydef(r.oid), pg_get_expr(r.relpartbound, r.oid),
       (SELECT a.amname FROM pg_am a WHERE a.oid = r.relam), r.reltoastrelid <> 0, obj_description(r.oid, 'pg_class')
  FROM relation r ORDER BY r.oid::regclass::text;
SELECT 'column', r.oid::regclass, row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum), a.attname,
       format_type(a.atttypid, a.atttypmod), (SELECT c.collname FROM pg_collation c WHERE c.oid = a.attcollation),
       a.attnotnull, a.attstorage, a.attcompression, a.attidentity, a.attgenerated, a.attstattarget,
       ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE NOT starts_with(o, 'pg_attver=')),
       pg_get_expr(d.adbin, d.adrelid), pg_temp.sorted(a.attacl), col_description(r.oid, a.attnum)
  FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid
  LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind NOT IN ('i', 'I') ORDER BY r.oid::regclass::text, a.attnum;
SELECT 'index', x.indexrelid::regclass, pg_get_indexdef(x.indexrelid), x.indisprimary, x.indisunique, x.indisvalid, x.indisreplident,
       obj_description(x.indexrelid, 'pg_class')
  FROM pg_index x JOIN relation r ON r.oid = x.indrelid ORDER BY x.indexrelid::regclass::text;
SELECT 'constraint', c.conrelid::regclass, c.conname, c.contype, pg_get_constraintdef(c.oid), c.convalidated,
       obj_description(c.oid, 'pg_constraint')
  FROM pg_constraint c JOIN relation r ON r.oid = c.conrelid WHERE c.contype <> 'n' ORDER BY c.conrelid::regclass::text, c.conname;
SELECT 'trigger', t.tgrelid::regclass, pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger')
  FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal ORDER BY t.tgrelid::regclass::text, t.tgname;
SELECT 'policy', p.polrelid::regclass, p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
       pg_get_expr(p.polwithcheck, p.polrelid)
  FROM pg_policy p JOIN relation r ON r.oid = p.polrelid ORDER BY p.polrelid::regclass::text, p.polname;
SELECT 'rule', w.ev_class::regclass, w.rulename, w.ev_enabled, pg_get_ruledef(w.oid, true)
  FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class ORDER BY w.ev_class::regclass::text, w.rulename;
SELECT 'sequence', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle
  FROM pg_sequence s JOIN relation r ON r.oid = s.seqrelid ORDER BY s.seqrelid::regclass::text;
SELECT 'inherits', i.inhrelid::regclass, i.inhparent::regclass FROM pg_inherits i JOIN relation r ON r.oid = i.inhrelid
 ORDER BY i.inhrelid::regclass::text;
SELECT 'statistics', pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN relation r ON r.oid = s.stxrelid ORDER BY 2;
SELECT 'other', i.type, i.identity, obj_description(m.objid, m.classid::regclass::name)
  FROM member m, pg_identify_object(m.classid, m.objid, 0) i
 WHERE m.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass, 'pg_event_trigger'::regclass)
 ORDER BY 2, 3;
