/*
 * src/ddl.h
 *
 * What DDL and TRUNCATE do to watched tables.
 */
#ifndef JOBSTATE_DDL_H
#define JOBSTATE_DDL_H

extern void jobstate_truncate_booked(Oid part);

#endif							/* JOBSTATE_DDL_H */
