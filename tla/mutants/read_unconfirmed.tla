----------------------- MODULE read_unconfirmed -----------------------
(* A server answers reads from its memory without asking the store. *)
EXTENDS Homenode

NotConfirmed == TRUE
=======================================================================
