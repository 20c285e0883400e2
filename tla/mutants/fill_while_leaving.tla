---------------------- MODULE fill_while_leaving ----------------------
(* Read replies are cached while the session's own commit is under way. That commit waits for everybody but its
committer. *)
EXTENDS Homenode

NeverLeaving(s, level) == FALSE
=======================================================================
