------------------------ MODULE version_reused ------------------------
(* Dropping a tombstone does not raise the floor: the next life of the artifact starts again at the first
version. *)
EXTENDS Homenode

FloorForgotten(st) == st.floor
=======================================================================
