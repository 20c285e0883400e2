---------------------- MODULE commit_uncompared ----------------------
(* A server commits on the record that it remembers, whatever the store has by now. *)
EXTENDS Homenode

NotCompared == TRUE
======================================================================
