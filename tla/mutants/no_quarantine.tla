------------------------ MODULE no_quarantine ------------------------
(* A new incarnation publishes at once, while copies of the old one can still be read. *)
EXTENDS Homenode

NeverQuarantined(st) == FALSE
======================================================================
