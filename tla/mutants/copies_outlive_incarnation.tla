------------------ MODULE copies_outlive_incarnation ------------------
(* A session that sees a new incarnation keeps its copy, of which the new store knows nothing. *)
EXTENDS Homenode

KeepsPermissions(c) == [NewClient(store.inc) EXCEPT !.cache = c.cache, !.mode = c.mode, !.left = c.left]
=======================================================================
