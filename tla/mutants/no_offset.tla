-------------------------- MODULE no_offset --------------------------
(* A jump of the store's clock is not made up for by an offset: leases end before their owners' time. *)
EXTENDS Homenode

TakenOver(st) == Shifted(st, Max(0, st.skew))
======================================================================
