------------------------ MODULE commit_at_once ------------------------
(* A strict commit takes effect at once and invalidates afterwards: one agent reads the new version, and then another
the old. *)
EXTENDS Homenode

NeverPrepares(st, s) == FALSE
=======================================================================
