------------------- MODULE acknowledged_at_prepare -------------------
(* A strict commit is acknowledged when it is prepared; its version has not taken effect. *)
EXTENDS Homenode

ToldDone(st, s, id) == Answer(st, s, id, Result(TRUE, "", st, None))
======================================================================
