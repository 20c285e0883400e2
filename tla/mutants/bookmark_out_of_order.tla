-------------------- MODULE bookmark_out_of_order --------------------
(* A bookmark counts before the log is applied to its sequence: a copy whose Inv was lost is taken for confirmed. *)
EXTENDS Homenode

BookmarkAlways(s) == TRUE
======================================================================
