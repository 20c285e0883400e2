------------------------ MODULE no_redelivery ------------------------
(* The stream goes on after the newest entry that was heard: an entry lost before it never comes. *)
EXTENDS Homenode

OnlyNews(c, i) == i > Max(c.applied, c.heard)
======================================================================
