----------------- MODULE version_without_incarnation -----------------
(* Versions do not name the incarnation: a store that was set back gives a version number to another content. *)
EXTENDS Homenode

OldNames(st, e) == <<1, e.ver[2] + 1>>
======================================================================
