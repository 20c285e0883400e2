------------------------ MODULE maker_spared -------------------------
(* What was deleted is made again strict without waiting for its maker's own lazy copy. *)
EXTENDS Homenode

SparedAlways(e, s) == s
======================================================================
