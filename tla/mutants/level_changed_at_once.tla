-------------------- MODULE level_changed_at_once --------------------
(* An artifact becomes strict while lazy copies of it can still be read. *)
EXTENDS Homenode

NoRound(st, r) == FALSE
======================================================================
