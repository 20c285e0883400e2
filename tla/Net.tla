--------------------------------- MODULE Net ---------------------------------
(* Theory of operation.

   The invalidation stream. Any log entry may reach a session at any time, in any order, any number of times, or
   never: so loss, delay, duplication and reordering need no state. A session obeys an Inv at once, in whatever order
   it comes; but it counts the log as applied only without a gap. An entry that is not routed to the session passes
   without effect.

   Requests and replies: see Directory (any request ever sent may arrive) and Client (replies arrive at any time
   after). *)
EXTENDS Client

(* The stream goes on from what was applied without a gap, not from what was heard. *)
Due(c, i) == i > c.applied

Deliver(s, i) ==
    LET c == client[s]
        x == store.log[i]
        c1 == IF s \in x.to
              THEN [Drop(c, x.ver) EXCEPT !.heard = Max(@, i), !.acked = Max(@, x.ver[2])]
              ELSE c
        c2 == [c1 EXCEPT !.applied = IF i = @ + 1 THEN i ELSE @]
    IN /\ s \in Readers /\ c.inc = store.inc /\ Due(c, i) /\ c2 # c
       /\ client' = [client EXCEPT ![s] = c2]
       /\ UNCHANGED <<store, net>>

(* Whatever the log said up to what was applied is obeyed: no older copy is held. *)
ResumeLosesNothing ==
    \A s \in Session : LET c == client[s] IN c.cache # None /\ c.inc = store.inc =>
        \A i \in 1..c.applied : s \in store.log[i].to => ~Lt(c.cache, store.log[i].ver)

(* The log was trimmed, or the queue ran over: drop, and go on from a later point. *)
ResyncDrops(c) == Gone(c)
Resync(s) ==
    /\ Has("resync") /\ s \in Readers /\ client[s].inc = store.inc
    /\ \E h \in (client[s].applied + 1)..Len(store.log) :
        client' = [client EXCEPT ![s] = [ResyncDrops(@) EXCEPT !.applied = h, !.heard = Max(@, h)]]
    /\ UNCHANGED <<store, net>>
=============================================================================
