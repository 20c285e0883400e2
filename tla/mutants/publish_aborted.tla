----------------------- MODULE publish_aborted -----------------------
(* A prepared commit is taken back instead of being published. *)
EXTENDS Homenode

Aborted(st) ==
    LET p == st.entry.pending IN Deny([st EXCEPT !.entry.pending = None], p.s, p.id, "aborted")
======================================================================
