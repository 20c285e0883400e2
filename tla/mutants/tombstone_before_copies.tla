------------------- MODULE tombstone_before_copies -------------------
(* A tombstone is dropped while lazy copies of what was deleted can be read, and with it its sharers. *)
EXTENDS Homenode

DroppedAtOnce(st) == TRUE
======================================================================
