------------------------- MODULE prepare_late -------------------------
(* A prepare is committed long after it was judged: its wait is over before the copies die. *)
EXTENDS Homenode

AtAnyTime == TRUE
=======================================================================
