------------------- MODULE renewal_defeats_quiesce -------------------
(* A keepalive extends the deadline at once, before the log is applied to its sequence: a copy whose Inv was lost
outlives the frozen deadline. *)
EXTENDS Homenode

ExtendAlways(s) == TRUE
======================================================================
