\echo Use "ALTER EXTENSION jobstate UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;
