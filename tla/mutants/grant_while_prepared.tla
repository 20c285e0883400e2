--------------------- MODULE grant_while_prepared ---------------------
(* Reads between prepare and publish may be cached: the wait-set does not know these copies. *)
EXTENDS Homenode

AlwaysCacheable(st) == TRUE
=======================================================================
