--------------------- MODULE prepared_told_never ---------------------
(* A closing session is told that its prepared commit will never run. *)
EXTENDS Homenode

NotStored(st, s, id) == ~Stored(st, s, id)
======================================================================
