----------------------- MODULE deleter_leaves ------------------------
(* Who deletes a lazy artifact leaves its sharers at once, though it serves its copy until it hears of it. *)
EXTENDS Homenode

GoneAtOnce(e, s) == 0
======================================================================
