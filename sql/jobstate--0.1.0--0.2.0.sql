\echo Use "ALTER EXTENSION jobstate UPDATE" to load this file. \quit
