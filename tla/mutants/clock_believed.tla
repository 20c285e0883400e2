------------------------ MODULE clock_believed ------------------------
(* Deadlines are judged by what the store's clock shows: when it jumps, a prepared commit is published while copies can
be read. *)
EXTENDS Homenode

ByStoreClock(st, left) == left <= st.skew
=======================================================================
