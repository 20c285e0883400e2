--------------------- MODULE session_ended_early ---------------------
(* A session is given up while its deadlines still run: two sessions believe in a write lease. *)
EXTENDS Homenode

AtAnyTime(s) == TRUE
======================================================================
