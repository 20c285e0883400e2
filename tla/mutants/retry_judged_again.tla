---------------------- MODULE retry_judged_again ----------------------
(* The retry of a prepared commit finds no result and is judged as a new request: it is told that somebody is in
the way, itself. *)
EXTENDS Homenode

NeverUnderway(st, s, id) == FALSE
=======================================================================
