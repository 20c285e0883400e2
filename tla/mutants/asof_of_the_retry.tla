---------------------- MODULE asof_of_the_retry ----------------------
(* A stored answer is stamped with the sequence of the look-up, not that of the execution: a late acknowledgement
passes the fill check after the Inv of a later version was obeyed. *)
EXTENDS Homenode

AsOfNow(r) == Len(store.log)
======================================================================
