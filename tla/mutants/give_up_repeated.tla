----------------------- MODULE give_up_repeated -----------------------
(* Giving up a copy has no stored result: a repetition of it that arrives late takes away a copy that was granted
since. *)
EXTENDS Homenode

NeverGaveUp(st, s, id) == FALSE
=======================================================================
