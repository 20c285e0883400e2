----------------------- MODULE fence_not_raised -----------------------
(* A grant does not raise the fence: two leases get the same token. *)
EXTENDS Homenode

SameFence(e) == Max(e.fence, 1)
=======================================================================
