---------------------- MODULE level_waits_a_term ----------------------
(* A change to strict waits for a term only, while lazy copies may be older. *)
EXTENDS Homenode

TermOnly(st) == Term
=======================================================================
