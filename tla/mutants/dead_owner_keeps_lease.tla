-------------------- MODULE dead_owner_keeps_lease --------------------
(* Deadlines of write leases are not swept. *)
EXTENDS Homenode

Never == FALSE
=======================================================================
