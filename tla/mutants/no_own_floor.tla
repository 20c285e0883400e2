------------------------- MODULE no_own_floor -------------------------
(* The session's own commits and leases do not raise its floor: a late read reply brings an older version back. *)
EXTENDS Homenode

FloorUnmoved(c, asof) == c.told
=======================================================================
