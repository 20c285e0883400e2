------------------------- MODULE resume_skips -------------------------
(* A session that goes on from a later point of the log keeps its copy. *)
EXTENDS Homenode

KeepsCopy(c) == c
=======================================================================
