------------------ MODULE deadlines_follow_renewals ------------------
(* A keepalive moves the deadline in the wait-set too: a reader that is alive but never acknowledges holds up a
commit for ever. *)
EXTENDS Homenode

WaitsLonger(p, s) == IF p = None THEN p ELSE IF s \in p.waits THEN [p EXCEPT !.until = Term] ELSE p
======================================================================
