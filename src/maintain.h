/*
 * src/maintain.h
 *
 * The fold starts itself.
 */
#ifndef JOBSTATE_MAINTAIN_H
#define JOBSTATE_MAINTAIN_H

extern void jobstate_maintain_init(void);
extern void jobstate_maintain_wanted(void);

#endif							/* JOBSTATE_MAINTAIN_H */
