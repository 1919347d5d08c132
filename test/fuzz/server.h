/*
 * server.h
 *	  What the fuzz targets need of the server, and how they call trucker's code.
 */
#ifndef FUZZ_SERVER_H
#define FUZZ_SERVER_H

/*
 * Call body(arg) as the server would: true if it returns, false if it raises an
 * error, of which *sqlstate then is the code.
 */
extern bool fuzz_try(void (*body) (void *arg), void *arg, int *sqlstate);

/* Free all that has been allocated since the last time. */
extern void fuzz_reset(void);

/* Something is not as it must be. */
extern void fuzz_fail(const char *what) pg_attribute_noreturn();

#endif							/* FUZZ_SERVER_H */
