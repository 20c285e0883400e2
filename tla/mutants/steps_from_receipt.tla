-------------------- MODULE steps_from_receipt --------------------
(* Steps are counted from the moment that a bookmark comes, not from the sending of its ping. *)
EXTENDS Homenode

NoneSince(mark) == 0
===================================================================
