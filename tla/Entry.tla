-------------------------------- MODULE Entry --------------------------------
(* Theory of operation.

   The rules of `protocol/transitions.py`: functions from one state of the store to the next, without side effects.
   Small operators that state one rule each (FenceOk, BaseOk, Stored, NextVer, ...) are what the mutants replace.

   A commit is published at once (lazy), or prepared and published when no copy of an older version can be read any
   more (strict): every session of the wait-set has acknowledged, or the deadline that was frozen at prepare passed. *)
EXTENDS Protocol

Result(ok, why, st, token) ==
    [ok |-> ok, why |-> why, ver |-> st.entry.ver, token |-> token, asof |-> Len(st.log)]
Answer(st, s, id, r) == [st EXCEPT !.res[s][id] = r]
Deny(st, s, id, why) == Answer(st, s, id, Result(FALSE, why, st, None))

Exists(e) == e.content # None
Current(e) == IF Exists(e) THEN e.ver ELSE NoVer

(* An absent artifact's record starts at the slice's floor, so that nothing of an earlier life fits it. *)
StartOf(st) == st.floor
Opened(st) == IF st.entry.known THEN st.entry
              ELSE [NoEntry EXCEPT !.known = TRUE, !.ver = <<st.inc, StartOf(st)>>, !.fence = StartOf(st)]
NextVer(st, e) == <<st.inc, e.ver[2] + 1>>
NextFence(e) == e.fence + 1

(* ------------------------------ write lease ------------------------------ *)
Issue(st, token) == [st EXCEPT !.top = Later(@, token), !.reissued = @ \/ ~Lt(st.top, token)]

Grant(st, s, id) ==
    LET e == Opened(st)
        f == NextFence(e)
        st1 == [st EXCEPT !.entry = [e EXCEPT !.fence = f,
                                     !.holder = [s |-> s, lease |-> id, fence |-> f, left |-> Term]]]
    IN Issue(Answer(st1, s, id, Result(TRUE, "", st1, <<st.inc, f>>)), <<st.inc, f>>)

GrantNext(st) ==
    LET e == st.entry
        w == Head(e.queue)
    IN IF e.holder # None \/ e.pending # None \/ e.queue = <<>> THEN st
       ELSE Grant([st EXCEPT !.entry.queue = Tail(@)], w.s, w.id)

EndLease(st) == GrantNext([st EXCEPT !.entry.holder = None, !.entry.fence = @ + 1])

(* -------------------------------- commit --------------------------------- *)
Holds(st, s, r) ==
    LET h == st.entry.holder
    IN h # None /\ h.s = s /\ h.lease = r.lease /\ <<st.inc, h.fence>> = r.token
FenceOk(st, s, r) == Holds(st, s, r)
BaseOk(st, r) == r.any \/ r.base = Current(st.entry)

(* A lease that is lost is named first (the zombie learns why), then the version, then whoever is in the way. *)
CommitDenial(st, s, r) ==
    LET e == st.entry
    IN IF r.token # None /\ ~FenceOk(st, s, r) THEN "stale_fence"
       ELSE IF ~BaseOk(st, r) THEN "version_conflict"
       ELSE IF e.pending # None \/ (r.token = None /\ e.holder # None) THEN "held"
       ELSE IF r.delete /\ ~Exists(e) THEN "not_found"
       ELSE ""

Effect(st, v, content, by, r, stale) ==
    [ver |-> v, content |-> content, by |-> by, base |-> r.base, any |-> r.any, prev |-> Current(st.entry),
     stale |-> stale, inc |-> st.inc, since |-> 0, lost |-> FALSE]

Sharers(e) == {t \in Session : e.sharers[t] > 0}

(* Whom an Inv goes to: the committer too. Its own copy of the new version is not older; but if the answer to its
   commit is lost, the Inv is what tells it that its old copy is obsolete. *)
Routed(e, s) == Sharers(e)
Log(st, v, to) == [st EXCEPT !.log = Append(@, [ver |-> v, to |-> to])]

(* The committer stays a sharer, of its own version. *)
SharersAfter(e, s, v, content) == [e.sharers EXCEPT ![s] = IF content = None THEN 0 ELSE v[2]]

(* Whom a strict commit waits for, and how long at most: the deadlines as they are now, whatever is renewed later. Not
   for the committer, which withdraws its copy when it sends the commit (Client!Leaves). *)
WaitSet(st, e, s) == [t \in Session |-> IF t \in Sharers(e) \ {s} THEN st.dl[t] ELSE None]

(* What the committer is told when its commit is prepared: nothing yet. *)
ToldAtPrepare(st, s, id) == st

Prepare(st, s, id, r) ==
    LET e == Opened(st)
        v == NextVer(st, e)
        f == NextFence(e)
        content == IF r.delete THEN None ELSE <<s, id>>
        holder == IF r.keep /\ e.holder # None THEN [e.holder EXCEPT !.fence = f] ELSE None
        p == [s |-> s, id |-> id, ver |-> v, fence |-> f, waits |-> WaitSet(st, e, s), keep |-> r.keep,
              effect |-> Effect(st, v, content, <<s, id>>, r, r.token # None /\ ~Holds(st, s, r))]
        st1 == [st EXCEPT !.entry = [e EXCEPT !.fence = f, !.holder = holder, !.pending = p]]
        st2 == ToldAtPrepare(Log(st1, v, Routed(e, s)), s, id)
    IN IF r.keep THEN Issue(st2, <<st.inc, f>>) ELSE st2

(* A strict publish takes a sequence of its own: reads before it are then older than every answer after it. *)
LogPublish(st) == IF Level = "lazy" THEN st ELSE Log(st, st.entry.ver, {})

Publish(st) ==
    LET e == st.entry
        p == e.pending
        st0 == [st EXCEPT !.entry = [e EXCEPT !.ver = p.ver, !.content = p.effect.content, !.pending = None,
                                     !.sharers = SharersAfter(e, p.s, p.ver, p.effect.content)],
                          !.hist = Append(@, [p.effect EXCEPT !.inc = st.inc, !.prev = Current(e)])]
        st1 == LogPublish(st0)
        token == IF p.keep THEN <<st.inc, p.fence>> ELSE None
    IN GrantNext(Answer(st1, p.s, p.id, Result(TRUE, "", st1, token)))

Quiet(st) == \A t \in Session : st.entry.pending.waits[t] \in {None, 0}
Quarantined(st) == st.quar > 0
MayPublish(st) == st.entry.pending # None /\ (Level = "lazy" \/ (~Quarantined(st) /\ Quiet(st)))
Settle(st) == IF MayPublish(st) THEN Publish(st) ELSE st

(* ------------------------------- give-ups -------------------------------- *)
Unwait(st, s) == IF st.entry.pending = None THEN st ELSE [st EXCEPT !.entry.pending.waits[s] = None]
(* An acknowledgement of version number n speaks for every copy older than n, and for no other. *)
SpeaksFor(n, copy) == copy < n
Leave(st, s) == Unwait([st EXCEPT !.entry.sharers[s] = 0], s)

(* ------------------------------ idempotency ------------------------------ *)
(* A request that waits or is prepared has no result yet; its retry must find it there, not be judged again. *)
Underway(st, s, id) ==
    \/ \E i \in DOMAIN st.entry.queue : st.entry.queue[i] = [s |-> s, id |-> id]
    \/ st.entry.pending # None /\ st.entry.pending.s = s /\ st.entry.pending.id = id
Stored(st, s, id) == st.res[s][id] # None
GaveUp(st, s, id) == Stored(st, s, id)
=============================================================================
