/*
 * src/error.h
 *
 * Everything that jobstate says to a user when it refuses.
 */
#ifndef JOBSTATE_ERROR_H
#define JOBSTATE_ERROR_H

#include "utils/reltrigger.h"

#include "attachment.h"
#include "compat.h"

extern void jobstate_error_illegal_move(JobstateWatched *watched, Relation rel,
										TupleTableSlot *slot, int from, int to) pg_attribute_noreturn();
extern void jobstate_error_illegal_insert(JobstateWatched *watched, Relation rel,
										  TupleTableSlot *slot, int state) pg_attribute_noreturn();
extern void jobstate_error_unknown_state(JobstateWatched *watched, Relation rel,
										 TupleTableSlot *slot) pg_attribute_noreturn();
extern void jobstate_error_unknown_state_counted(JobstateAttachment *attachment,
												 const char *value, int64 n) pg_attribute_noreturn();
extern void jobstate_error_no_edge(JobstateAttachment *attachment, int from, int to) pg_attribute_noreturn();
extern void jobstate_error_no_state(JobstateAttachment *attachment, const char *name) pg_attribute_noreturn();
extern void jobstate_error_not_terminal(JobstateAttachment *attachment, int state) pg_attribute_noreturn();
extern void jobstate_error_not_done(JobstateAttachment *attachment, Oid part, int state,
									int64 n) pg_attribute_noreturn();
extern void jobstate_error_no_partition(Oid relid) pg_attribute_noreturn();
extern void jobstate_error_negative(JobstateAttachment *attachment, const char *group,
									const char *state, int64 n) pg_attribute_noreturn();
extern void jobstate_error_damaged(const char *what, text *stored) pg_attribute_noreturn();
extern void jobstate_error_snapshot_truncated(Oid target) pg_attribute_noreturn();

extern void jobstate_error_ring_emptied(void) pg_attribute_noreturn();
extern void jobstate_error_null(const char *argument) pg_attribute_noreturn();
extern void jobstate_error_not_positive(const char *argument) pg_attribute_noreturn();
extern void jobstate_error_no_extension(void) pg_attribute_noreturn();
extern void jobstate_error_no_machine(const char *name) pg_attribute_noreturn();
extern void jobstate_error_too_many_states(const char *name) pg_attribute_noreturn();
extern void jobstate_error_no_table(Oid relid) pg_attribute_noreturn();
extern void jobstate_error_no_column(Relation rel, const char *name) pg_attribute_noreturn();
extern void jobstate_error_column_type(Relation rel, const char *name, Oid type, Oid wanted) pg_attribute_noreturn();
extern void jobstate_error_column_null(Relation rel, const char *name) pg_attribute_noreturn();
extern void jobstate_error_column_not_positive(Relation rel, const char *name) pg_attribute_noreturn();
extern void jobstate_error_wrong_index(Relation rel, Relation index) pg_attribute_noreturn();
extern void jobstate_error_not_ordinary(Relation rel) pg_attribute_noreturn();
extern void jobstate_error_column_twice(const char *name) pg_attribute_noreturn();
extern void jobstate_error_state_type(Relation rel, const char *name, Oid type) pg_attribute_noreturn();
extern void jobstate_error_group_type(Relation rel, const char *name, Oid type) pg_attribute_noreturn();
extern void jobstate_error_group_text(Relation rel, const char *name, Oid type) pg_attribute_noreturn();
extern void jobstate_error_virtual(Relation rel, const char *name) pg_attribute_noreturn();
extern void jobstate_error_rollup_by_others(Oid target) pg_attribute_noreturn();
extern void jobstate_error_enum_in_use(const char *label, Oid target) pg_attribute_noreturn();
extern void jobstate_error_age_type(Relation rel, const char *name, Oid type) pg_attribute_noreturn();
extern void jobstate_error_too_many_groups(int n, int max) pg_attribute_noreturn();
extern void jobstate_error_key_too_long(int size, int max) pg_attribute_noreturn();
extern void jobstate_error_group_key_shape(void) pg_attribute_noreturn();
extern void jobstate_error_group_key_column(Oid target, const char *name) pg_attribute_noreturn();

extern void jobstate_error_not_attached(Oid target) pg_attribute_noreturn();
extern void jobstate_error_attached(Oid target, Oid root) pg_attribute_noreturn();
extern void jobstate_error_wrong_kind(Relation rel) pg_attribute_noreturn();
extern void jobstate_error_wrong_persistence(Relation rel) pg_attribute_noreturn();
extern void jobstate_error_no_key(Oid target, bool single) pg_attribute_noreturn();
extern void jobstate_error_row_security(Oid target) pg_attribute_noreturn();
extern void jobstate_error_trigger_protocol(const char *function) pg_attribute_noreturn();
extern void jobstate_error_trigger_unattached(Relation rel, Trigger *trigger) pg_attribute_noreturn();
extern void jobstate_error_triggers_off(Oid target) pg_attribute_noreturn();
extern void jobstate_error_derived(JobstateWatched *watched, Relation rel,
								   TupleTableSlot *slot, int from, int to) pg_attribute_noreturn();
extern void jobstate_error_derived_lost(JobstateAttachment *parent) pg_attribute_noreturn();
extern void jobstate_error_derive_key(Oid parent) pg_attribute_noreturn();
extern void jobstate_error_derive_cycle(Oid parent) pg_attribute_noreturn();
extern void jobstate_error_too_many_keys(int n, int max) pg_attribute_noreturn();
extern void jobstate_error_not_derived(Oid parent) pg_attribute_noreturn();
extern void jobstate_error_derived_already(Oid parent, Oid child) pg_attribute_noreturn();
extern void jobstate_error_in_derivation(Oid target, Oid parent, Oid child) pg_attribute_noreturn();
extern void jobstate_error_no_rule_set(const char *name) pg_attribute_noreturn();
extern void jobstate_error_no_order(TupleDesc desc, AttrNumber attno) pg_attribute_noreturn();
extern void jobstate_error_array_lengths(const char *one, const char *other) pg_attribute_noreturn();
extern void jobstate_error_no_family(const char *family, const char *relation) pg_attribute_noreturn();
extern void jobstate_error_no_slot(Relation rel, int slot) pg_attribute_noreturn();
extern void jobstate_error_not_by_slot(Relation rel) pg_attribute_noreturn();
extern void jobstate_error_statement_trigger(Relation rel, Trigger *trigger) pg_attribute_noreturn();

#endif							/* JOBSTATE_ERROR_H */
