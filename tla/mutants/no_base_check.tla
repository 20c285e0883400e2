------------------------ MODULE no_base_check ------------------------
(* The base is not compared: another's commit is overwritten unseen. *)
EXTENDS Homenode

AnyBase(st, r) == TRUE
======================================================================
