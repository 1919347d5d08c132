/*
 * latency.c
 *	  The histogram of latencies: fixed buckets, six to a factor of ten.
 *
 * Pure arithmetic.  The bounds are those of a decimal scale, so that some of them
 * (1, 2, 5, 10 ...) can be shown as a histogram of their own; a percentile is off by
 * less than half of its value, mostly by much less.
 */
#include "trucker.h"

#include "stats.h"

/* the bounds from 100 microseconds on, for nine powers of ten, and 100,000 s */
#define FIRST_US 100
static const double steps[] = {1, 1.5, 2, 3, 5, 7};

StaticAssertDecl(TRUCKER_LATENCY_BOUNDS == 9 * lengthof(steps) + 1, "nine powers of ten, and the next one");

/* The upper bound of a bucket, in microseconds; -1: it has none. */
int64
trucker_latency_bound(int bucket)
{
	int64		scale = FIRST_US;

	if (bucket >= TRUCKER_LATENCY_BOUNDS)
		return -1;
	for (int i = 0; i < bucket / (int) lengthof(steps); i++)
		scale *= 10;
	return (int64) (steps[bucket % (int) lengthof(steps)] * scale);
}

/* The bucket that a latency belongs to: the first whose bound is not below it. */
int
trucker_latency_bucket(int64 us)
{
	static int64 bounds[TRUCKER_LATENCY_BOUNDS] = {0};
	int			low = 0;
	int			high = TRUCKER_LATENCY_BOUNDS;

	if (bounds[0] == 0)
		for (int i = 0; i < TRUCKER_LATENCY_BOUNDS; i++)
			bounds[i] = trucker_latency_bound(i);
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (us <= bounds[middle])
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/*
 * Below what time, in microseconds, is that fraction of all that was counted?  Within a
 * bucket all is taken to be spread evenly; beyond the last bound only that can be said.
 * -1: nothing was counted.
 */
double
trucker_latency_percentile(const uint64 *buckets, double fraction)
{
	uint64		total = 0;
	double		wanted;
	double		below = 0;

	for (int i = 0; i < TRUCKER_LATENCY_BUCKETS; i++)
		total += buckets[i];
	if (total == 0)
		return -1;
	wanted = fraction * total;
	for (int i = 0; i < TRUCKER_LATENCY_BOUNDS; i++)
	{
		double		low = i == 0 ? 0 : trucker_latency_bound(i - 1);

		if (buckets[i] > 0 && below + buckets[i] >= wanted)
			return low + (trucker_latency_bound(i) - low) * (wanted - below) / buckets[i];
		below += buckets[i];
	}
	return trucker_latency_bound(TRUCKER_LATENCY_BOUNDS - 1);
}
