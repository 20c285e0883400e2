--------------------- MODULE made_strict_at_once ---------------------
(* What is made again under a strict prefix is strict as soon as that is prepared. *)
EXTENDS Homenode

AsMade(after, st) == after
======================================================================
