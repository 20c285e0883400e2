-------------------------------- MODULE Time ---------------------------------
(* Theory of operation.

   One tick for everybody: deadlines lose one, ages gain one. Drift and small clock steps are not modelled; the
   implementation takes them off the session's side (term * (1 - rho) - epsilon), which only shortens what a session
   may do here. Large steps of the store's clock are: see Directory!ClockJump. *)
EXTENDS Strict

Dec(n) == IF n = 0 THEN 0 ELSE n - 1

TickEntry(e) ==
    [e EXCEPT !.holder = IF @ = None THEN None ELSE [@ EXCEPT !.left = Dec(@)],
              !.pending = IF @ = None THEN None ELSE [@ EXCEPT !.until = Dec(@)]]

MarkAge == Max(IF UsesLazy THEN Delta + 1 ELSE 0, IF UsesStrict THEN Term ELSE 0)

Tick ==
    /\ store' = [store EXCEPT !.entry = TickEntry(@),
                              !.dl = [s \in Session |-> Dec(@[s])],
                              !.quar = Dec(@),
                              !.hist = IF UsesLazy
                                       THEN [i \in DOMAIN @ |-> [@[i] EXCEPT !.since = Min(@ + 1, Delta + 1)]] ELSE @]
    /\ net' = [s \in Session |->
                [net[s] EXCEPT !.age = IF Has("lease") /\ client[s].ask # 0 THEN Min(@ + 1, Term) ELSE @,
                               !.mark = IF @ = None THEN None ELSE [@ EXCEPT !.age = Min(@ + 1, MarkAge)]]]
    /\ server' = IF Has("replica") THEN [server EXCEPT !.age = Min(@ + 1, Term)] ELSE server
    /\ client' = [s \in Session |->
                [client[s] EXCEPT !.wleft = Dec(@), !.fresh = Min(@ + 1, Delta + 1), !.left = Dec(@)]]
=============================================================================
