--------------------- MODULE window_from_receipt ---------------------
(* A session counts its strict copies from the moment that the bookmark comes, not from the sending of the ping. *)
EXTENDS Homenode

FromReceipt(age) == Term
======================================================================
