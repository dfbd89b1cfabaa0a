/*
 * src/derive.h
 *
 * Parents whose state follows from all their children.
 */
#ifndef JOBSTATE_DERIVE_H
#define JOBSTATE_DERIVE_H

extern void jobstate_derive_init(void);
extern void jobstate_derive_pending(void);

#endif							/* JOBSTATE_DERIVE_H */
