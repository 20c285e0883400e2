------------------------ MODULE silent_give_up ------------------------
(* Giving up a copy takes no sequence: a read executed before it may be cached after it, unknown to the
directory. *)
EXTENDS Homenode

NotLogged(st, s) == st
=======================================================================
