---------------------- MODULE sharers_uncompared ----------------------
(* The revision does not change with the sharers: a server that has not heard of a reader does not wait for it. *)
EXTENDS Homenode

ButSharers(a, b) == a = [b EXCEPT !.sharers = a.sharers]
=======================================================================
