---------------------- MODULE lease_from_receipt ----------------------
(* A session counts its write lease from the moment that the answer comes: it outlives the directory's. *)
EXTENDS Homenode

FromReceipt(age) == Term
=======================================================================
