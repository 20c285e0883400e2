----------------------- MODULE floor_uncompared -----------------------
(* A creation does not compare the slice's floor: a server that remembers an older one gives versions again. *)
EXTENDS Homenode

AnyFloor == TRUE
=======================================================================
