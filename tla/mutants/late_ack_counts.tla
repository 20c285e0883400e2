----------------------- MODULE late_ack_counts -----------------------
(* An acknowledgement of an earlier round satisfies a later one. *)
EXTENDS Homenode

SpeaksForAll(n, copy) == TRUE
======================================================================
