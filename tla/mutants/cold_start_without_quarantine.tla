---------------- MODULE cold_start_without_quarantine ----------------
(* Nobody vouched for the time, and it is believed without a quarantine. *)
EXTENDS Homenode

NotCalmed(st) == st
======================================================================
