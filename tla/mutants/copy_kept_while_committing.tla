------------------ MODULE copy_kept_while_committing ------------------
(* The committer goes on reading its old copy until its commit is answered; others may have read the new version
by then. *)
EXTENDS Homenode

CopyKept(c, r) == c
=======================================================================
