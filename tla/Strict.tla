-------------------------------- MODULE Strict -------------------------------
(* Theory of operation.

   A strict copy may be read until the session's deadline for this slice, which keepalives extend. The directory's
   deadline is never before the session's own: it counts from the execution, the session from the sending; doing both
   at one moment is the worst case.

   Quiesce relies on two things. The wait-set's deadlines are frozen at prepare (Entry!WaitSet). And a keepalive,
   executed as of sequence x, extends the session's deadline only after the log is applied to x: so whoever extends
   beyond a frozen deadline has obeyed the Inv of that prepare. *)
EXTENDS Lazy

(* What a keepalive does to a wait-set: nothing. *)
AfterRenewal(p, s) == p

KeepAlive(s) ==
    /\ Level = "strict" /\ s \in Readers /\ Attached(s)
    /\ store' = [store EXCEPT !.dl[s] = Term, !.entry.pending = AfterRenewal(@, s)]
    /\ net' = [net EXCEPT ![s].alive = [age |-> 0, asof |-> Len(store.log)]]
    /\ UNCHANGED client

ExtendOk(s) == client[s].applied >= net[s].alive.asof

Extend(s) ==
    /\ net[s].alive # None /\ ExtendOk(s)
    /\ client' = [client EXCEPT ![s].left = Max(@, Term - Min(Term, net[s].alive.age))]
    /\ net' = [net EXCEPT ![s].alive = None]
    /\ UNCHANGED store

(* Within an incarnation no readable copy differs from the last published version; no publish of a later incarnation
   happens while a copy of an earlier one can be read. *)
StrictCopies ==
    Level = "strict" => \A s \in Session :
        Readable(s) /\ client[s].inc = store.inc => client[s].cache = store.entry.ver
OldCopiesDead ==
    Level = "strict" => \A s \in Session :
        Readable(s) => \A i \in DOMAIN store.hist : store.hist[i].inc <= client[s].inc
=============================================================================
