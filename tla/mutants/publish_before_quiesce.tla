-------------------- MODULE publish_before_quiesce --------------------
(* A prepared commit is published without waiting for the copies. *)
EXTENDS Homenode

AlwaysQuiet(p, st) == TRUE
=======================================================================
