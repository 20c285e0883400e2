------------------------ MODULE no_fill_check ------------------------
(* A read reply is cached although an Inv for it was already obeyed. *)
EXTENDS Homenode

FillAlways(c, asof) == TRUE
======================================================================
