-------------------- MODULE copies_outlive_session --------------------
(* Lazy copies may be read for longer than their session lives: nobody waits for those of one that is over. *)
EXTENDS Homenode

TermOnly == Term
=======================================================================
