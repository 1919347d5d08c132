/*
 * pipeline_internal.h
 *	  What the files of the pipeline know of each other.
 */
#ifndef TRUCKER_PIPELINE_INTERNAL_H
#define TRUCKER_PIPELINE_INTERNAL_H

#include "pipeline.h"

/* in pipeline_run.c */
extern void trucker_pipeline_wait_for_sources(TruckerPipeline *pipeline);
extern void trucker_pipeline_note_source(TruckerPipeline *pipeline, TransactionId xid);
extern int	trucker_pipeline_begin_sql(TruckerPipeline *pipeline);
extern void trucker_pipeline_end_sql(TruckerPipeline *pipeline, int nestlevel);
extern void trucker_pipeline_execute_run(TruckerPipeline *pipeline);
extern void trucker_pipeline_execute_collected(TruckerPipeline *pipeline);
extern void trucker_pipeline_collect(TruckerPipeline *pipeline, TruckerInput *input);
extern void trucker_pipeline_start_clock(TruckerPipeline *pipeline);
extern void trucker_pipeline_stop_clock(TruckerPipeline *pipeline);

#endif							/* TRUCKER_PIPELINE_INTERNAL_H */
