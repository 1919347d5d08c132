/*
 * stats_api.c
 *	  SQL functions that show what trucks and streams have done, and forget it.
 *
 * They read shared memory, and the names from the catalog; nothing is locked that a
 * worker waits for, so they can be asked each second.
 */
#include "trucker.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "check.h"
#include "shmem.h"
#include "stats.h"
#include "stats_list.h"
#include "truck.h"

PG_FUNCTION_INFO_V1(trucker_truck_stats);
PG_FUNCTION_INFO_V1(trucker_stream_stats);
PG_FUNCTION_INFO_V1(trucker_truck_latencies);
PG_FUNCTION_INFO_V1(trucker_backfills);
PG_FUNCTION_INFO_V1(trucker_reset_stats);

/* the columns of truck_stats(): the name, counters, percentiles, when counting began */
#define TRUCK_COLUMNS 20

/* A counter as the view shows it: what is counted in time, in milliseconds. */
static Datum
truck_value(const TruckerTruckFigures *figures, TruckerTruckStat stat)
{
	uint64		value = figures->values[stat];

	if (stat >= TRUCKER_DECODE_NS && stat <= TRUCKER_COMMIT_NS)
		return Float8GetDatum(value / 1e6);
	return Int64GetDatum((int64) value);
}

static void
put_percentile(Datum *value, bool *isnull, const TruckerTruckFigures *figures, double fraction)
{
	double		us = trucker_latency_percentile(figures->latency, fraction);

	*value = Float8GetDatum(us / 1e3);
	*isnull = us < 0;
}

/* A truck that has no entry, since it has not run, or not for long, has a row without figures. */
static void
put_truck(ReturnSetInfo *rsinfo, const TruckerListed *truck)
{
	static const double fractions[] = {0.5, 0.95, 0.99};
	Datum		values[TRUCK_COLUMNS] = {0};
	bool		nulls[TRUCK_COLUMNS];
	TruckerTruckFigures figures;
	int			n = 0;

	memset(nulls, true, sizeof(nulls));
	values[n] = CStringGetTextDatum(truck->name);
	nulls[n++] = false;
	if (trucker_stats_get_truck(MyDatabaseId, &truck->id, &figures))
	{
		for (TruckerTruckStat stat = 0; stat < TRUCKER_TRUCK_STATS; stat++)
		{
			/* in its place come the percentiles */
			if (stat == TRUCKER_LATENCY_US)
			{
				for (int i = 0; i < lengthof(fractions); i++, n++)
					put_percentile(&values[n], &nulls[n], &figures, fractions[i]);
				continue;
			}
			values[n] = truck_value(&figures, stat);
			nulls[n++] = false;
		}
		values[n] = TimestampTzGetDatum(figures.since);
		nulls[n++] = false;
		Assert(n == TRUCK_COLUMNS);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* truck_stats(): what the view stat_truck shows */
Datum
trucker_truck_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (trucker_shmem_available())
		foreach(lc, trucker_list_trucks(false))
			put_truck(rsinfo, lfirst(lc));
	return (Datum) 0;
}

/* Only at these bounds of each power of ten, 1, 2 and 5, is a histogram shown. */
static bool
is_shown(int bucket)
{
	return bucket % 6 % 2 == 0;
}

static void
put_latencies(ReturnSetInfo *rsinfo, const TruckerListed *truck, const TruckerTruckFigures *figures)
{
	int64		count = 0;
	int			number = 0;

	for (int bucket = 0; bucket < TRUCKER_LATENCY_BUCKETS; bucket++)
	{
		int64		bound = trucker_latency_bound(bucket);
		Datum		values[5];
		bool		nulls[5] = {false};

		count += (int64) figures->latency[bucket];
		if (bound >= 0 && !is_shown(bucket))
			continue;
		values[0] = CStringGetTextDatum(truck->name);
		values[1] = Int32GetDatum(++number);
		values[2] = Float8GetDatum(bound / 1e6);
		nulls[2] = bound < 0;
		values[3] = Int64GetDatum(count);
		values[4] = Float8GetDatum(figures->values[TRUCKER_LATENCY_US] / 1e6);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* truck_latencies(): histograms, as openmetrics() shows them */
Datum
trucker_truck_latencies(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TruckerTruckFigures figures;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (trucker_shmem_available())
		foreach(lc, trucker_list_trucks(false))
			if (trucker_stats_get_truck(MyDatabaseId, &((TruckerListed *) lfirst(lc))->id, &figures))
				put_latencies(rsinfo, lfirst(lc), &figures);
	return (Datum) 0;
}

static void
put_stream(ReturnSetInfo *rsinfo, const TruckerListed *stream)
{
	Datum		values[16] = {0};
	bool		nulls[16];
	TruckerStreamFigures figures;
	TruckerWorkerInfo worker;

	memset(nulls, true, sizeof(nulls));
	values[0] = CStringGetTextDatum(stream->name);
	values[1] = BoolGetDatum(stream->home);
	values[2] = ObjectIdGetDatum(stream->owner);
	nulls[0] = nulls[1] = nulls[2] = false;
	if (stream->slot_name)
	{
		values[3] = CStringGetTextDatum(stream->slot_name);
		nulls[3] = false;
	}
	if (trucker_find_worker(MyDatabaseId, &stream->id, &worker) && worker.pid != 0)
	{
		values[4] = Int32GetDatum(worker.pid);
		nulls[4] = false;
		values[5] = Int32GetDatum(worker.walsender_pid);
		nulls[5] = worker.walsender_pid == 0;
		values[6] = LSNGetDatum(worker.applied_lsn);
		nulls[6] = XLogRecPtrIsInvalid(worker.applied_lsn);
		values[7] = TimestampTzGetDatum(worker.applied_at);
		nulls[7] = worker.applied_at == 0;
	}
	if (trucker_stats_get_stream(MyDatabaseId, &stream->id, &figures))
	{
		for (TruckerStreamStat stat = 0; stat < TRUCKER_STREAM_STATS; stat++)
			values[8 + stat] = stat == TRUCKER_STREAM_DECODE_NS ?
				Float8GetDatum(figures.values[stat] / 1e6) : Int64GetDatum((int64) figures.values[stat]);
		values[8 + TRUCKER_STREAM_STATS] = TimestampTzGetDatum(figures.since);
		memset(nulls + 8, false, TRUCKER_STREAM_STATS + 1);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* stream_stats(): what the view stat_stream is made of */
Datum
trucker_stream_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (trucker_shmem_available())
		foreach(lc, trucker_list_streams(false))
			put_stream(rsinfo, lfirst(lc));
	return (Datum) 0;
}

/* backfills(): what the view backfill_progress is made of */
Datum
trucker_backfills(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (!trucker_shmem_available())
		return (Datum) 0;
	foreach(lc, trucker_list_trucks(false))
	{
		const TruckerListed *truck = lfirst(lc);
		TruckerProgress progress;
		Datum		values[8];
		bool		nulls[8] = {false};

		if (!trucker_stats_get_progress(MyDatabaseId, &truck->id, &progress))
			continue;
		values[0] = CStringGetTextDatum(truck->name);
		values[1] = ObjectIdGetDatum(progress.relid);
		values[2] = Int32GetDatum(progress.number);
		values[3] = Int32GetDatum(progress.ntables);
		values[4] = Int64GetDatum((int64) progress.rows);
		values[5] = Float8GetDatum(progress.estimate);
		values[6] = TimestampTzGetDatum(progress.started_at);
		values[7] = Int32GetDatum(progress.pid);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* reset_stats(name): of a truck; NULL: of all of the caller's trucks and streams */
Datum
trucker_reset_stats(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	trucker_check_preloaded();
	if (!PG_ARGISNULL(0))
	{
		trucker_stats_reset_truck(MyDatabaseId, &trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)))->id);
		PG_RETURN_VOID();
	}
	foreach(lc, trucker_list_trucks(true))
		trucker_stats_reset_truck(MyDatabaseId, &((TruckerListed *) lfirst(lc))->id);
	foreach(lc, trucker_list_streams(true))
		trucker_stats_reset_stream(MyDatabaseId, &((TruckerListed *) lfirst(lc))->id);
	PG_RETURN_VOID();
}
