------------------------ MODULE no_fence_check ------------------------
(* A commit's token is not compared: a zombie commits after its lease passed to another. *)
EXTENDS Homenode

AnyFence(st, s, r) == TRUE
=======================================================================
