-------------------------- MODULE no_dedupe --------------------------
(* Stored results are not looked up: a repeated request is executed again. *)
EXTENDS Homenode

NeverStored(st, s, id) == FALSE
======================================================================
