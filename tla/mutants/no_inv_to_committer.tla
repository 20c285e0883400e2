--------------------- MODULE no_inv_to_committer ---------------------
(* The committer gets no Inv of its own commit: when the answer is lost, bookmarks go on confirming its old copy. *)
EXTENDS Homenode

OthersOnly(e, s) == Sharers(e) \ {s}
======================================================================
