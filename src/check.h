/*
 * check.h
 *	  What must hold before a truck may start.
 */
#ifndef TRUCKER_CHECK_H
#define TRUCKER_CHECK_H

#include "checklist.h"
#include "decoder.h"
#include "truck.h"

/* in check_server.c */
extern void trucker_check_preloaded(void);
extern void trucker_check_is_no_standby(void);
extern void trucker_check_server(int new_trucks, int new_slots, List *decoders);
extern void trucker_check_list_server(TruckerChecklist *list, int new_trucks, int new_slots, List *decoders);
extern const TruckerDecoder *trucker_check_decoder(const TruckerTruck *truck);

/* in check.c */
extern List *trucker_check_truck(const TruckerTruck *truck);
extern void trucker_check_not_lost(const TruckerTruck *truck, int elevel);
extern void trucker_check_list_truck(TruckerChecklist *list, const TruckerTruck *truck);
extern char *trucker_check_generated(const TruckerTruck *truck, Oid relid);

#endif							/* TRUCKER_CHECK_H */
