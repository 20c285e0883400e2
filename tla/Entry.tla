-------------------------------- MODULE Entry --------------------------------
(* Theory of operation.

   The rules of `protocol/rules.py` and `transitions.py`: functions from one state of the store to the next, without
   side effects. Small operators that state one rule each (FenceOk, BaseOk, Stored, NextVer, ...) are what the mutants
   replace.

   A commit is published at once, or, where strict copies of others may be readable, prepared; it is published when none
   can be read any more: every session of the wait-set has acknowledged, or the deadline that was frozen at prepare
   passed. *)
EXTENDS Protocol

Exists(e) == e.content # None
Current(e) == IF Exists(e) THEN e.ver ELSE NoVer
Strict(e) == e.level = "strict"

(* ------------------------------- what is logged -------------------------- *)
Event(kind, s, ver, fence, what, id) == [kind |-> kind, s |-> s, ver |-> ver, fence |-> fence, what |-> what, id |-> id]
Emit(st, event) == [st EXCEPT !.out = Append(@, event)]
Log(st, v, to) == [st EXCEPT !.log = Append(@, [ver |-> v, to |-> to])]
Quietly(st) == [st EXCEPT !.out = <<>>]

(* -------------------------------- time ----------------------------------- *)
(* Deadlines are judged by a time that is believed, not by what the store's clock shows: a server knows how long ago it
   last heard a time that was right (`skew` is by how much the clock is wrong since). *)
Passed(st, left) == left <= 0

Quarantined(st) == st.quar > 0

(* -------------------------------- answers -------------------------------- *)
(* Copies of a strict artifact may be kept while nothing is prepared, and not while copies may be out there that the
   directory does not know of. *)
Cacheable(st) == st.entry.pending = None /\ ~(Strict(st.entry) /\ Quarantined(st))

Result(ok, why, st, token) ==
    [ok |-> ok, why |-> why, ver |-> st.entry.ver, token |-> token, asof |-> Len(st.log),
     cacheable |-> Exists(st.entry) /\ Cacheable(st), level |-> st.entry.level]
Answer(st, s, id, r) == IF s = None THEN st ELSE [st EXCEPT !.res[s][id] = r]  \* None: nobody asked
Deny(st, s, id, why) == Answer(st, s, id, Result(FALSE, why, st, None))

(* An absent artifact's record starts at the slice's floor, so that nothing of an earlier life fits it. *)
StartOf(st) == st.floor
Opened(st) == IF st.entry.known THEN st.entry
              ELSE [st.entry EXCEPT !.known = TRUE, !.ver = <<st.inc, StartOf(st)>>, !.fence = StartOf(st)]
NextVer(st, e) == <<st.inc, e.ver[2] + 1>>
NextFence(e) == e.fence + 1

(* ------------------------------ write lease ------------------------------ *)
Issue(st, token) == [st EXCEPT !.top = Later(@, token), !.reissued = @ \/ ~Lt(st.top, token)]

(* The holder gets the committed version with the lease, so it is a sharer of it. *)
GiveLease(st, s, lease, waiting) ==
    LET e == Opened(st)
        f == NextFence(e)
        st1 == [st EXCEPT !.entry = [e EXCEPT !.fence = f,
                                     !.sharers[s] = IF Exists(e) THEN e.ver[2] ELSE @,
                                     !.holder = [s |-> s, lease |-> lease, fence |-> f, left |-> Term]]]
    IN Issue(Emit(st1, Event("Granted", s, NoVer, f, lease, waiting)), <<st.inc, f>>)
Grant(st, s, id, lease, waited) ==
    LET st1 == GiveLease(st, s, lease, IF waited THEN id ELSE 0)
    IN Answer(st1, s, id, Result(TRUE, "", st1, <<st.inc, st1.entry.fence>>))

(* A waiter whose session is over is passed by: it was refused when its session ended. *)
GrantNext(st) ==
    LET e == st.entry
        w == Head(e.queue)
    IN IF e.holder # None \/ e.pending # None \/ e.queue = <<>> THEN st
       ELSE Grant([st EXCEPT !.entry.queue = Tail(@)], w.s, w.id, w.lease, TRUE)

DropLease(st, cause) ==
    LET h == st.entry.holder
        f == NextFence(st.entry)
    IN Emit([st EXCEPT !.entry.fence = f, !.entry.holder = None],
            Event("Ended", h.s, NoVer, f, <<h.lease, cause>>, 0))
EndLease(st, cause) == GrantNext(DropLease(st, cause))

(* The lease id of a lease that was handed to a session which has not asked for it yet. *)
Reserved == 0
IsReserved(e, s) == IF e.holder = None THEN FALSE ELSE e.holder.s = s /\ e.holder.lease = Reserved

(* -------------------------------- commits -------------------------------- *)
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
       ELSE IF r.content = None /\ ~Exists(e) THEN "not_found"
       ELSE ""

Effect(st, v, s, id, r) ==
    [ver |-> v, content |-> r.content, by |-> IF s = None THEN <<None, v[2]>> ELSE <<s, id>>, base |-> r.base, any |-> r.any, prev |-> Current(st.entry),
     stale |-> r.token # None /\ ~Holds(st, s, r), inc |-> st.inc, since |-> 0, lost |-> FALSE,
     steps |-> NoSteps]

Sharers(e) == {t \in Session : e.sharers[t] > 0}

(* Whom an Inv goes to: the committer too. Its own copy of the new version is not older; but if the answer to its
   commit is lost, the Inv is what tells it that its old copy is obsolete. *)
Routed(e, s) == Sharers(e)

(* The committer is a sharer of its own version, `own`; of one that deletes, it stays one of the version that it has, for
   it serves its copy until it hears of the delete. Others stay sharers of theirs until they acknowledge; not where
   their copies are known to be dead. *)
SharersAfter(e, s, own, dead) ==
    [t \in Session |-> IF t = s THEN own ELSE IF dead THEN 0 ELSE e.sharers[t]]

(* Whom a strict commit waits for: every session that may hold a copy. Not its committer, which withdraws its copy when
   it sends the commit (Client!Leaves), and none that is over. But what was deleted while it was lazy and is made again
   under a strict prefix may have lazy copies, and its maker does not know that it has to withdraw its own. *)
WaitSet(st, e, s) == {t \in Sharers(e) \ {s} : st.live[t]}
Spared(e, s) == IF Exists(e) THEN s ELSE None
MustPrepare(st, s) == Strict(st.entry) /\ (Quarantined(st) \/ WaitSet(st, st.entry, Spared(st.entry, s)) # {})

(* And how long at most: from now on every copy dies in a term, unless its session has applied the log up to here
   (Strict!ExtendOk). Whatever is renewed later, this stays. Lazy copies, when the level changes, live as long as they
   may be old. *)
Frozen(st) == IF UsesLazy /\ UsesStrict THEN Max(Term, Delta + 1) ELSE Term

(* What the committer is told when its commit is prepared: nothing yet. *)
ToldAtPrepare(st, s, id) == st

Prepare(st, s, id, r) ==
    LET e == Opened(st)
        v == NextVer(st, e)
        f == NextFence(e)
        p == [s |-> s, id |-> id, ver |-> v, fence |-> f, waits |-> WaitSet(st, e, Spared(e, s)), until |-> Frozen(st),
              keep |-> r.keep, level |-> e.level, shares |-> TRUE, effect |-> Effect(st, v, s, id, r)]
        st1 == [st EXCEPT !.entry = [e EXCEPT !.fence = f, !.pending = p]]
        st2 == Emit(Log(st1, v, Routed(e, s)), Event("Prepared", s, v, f, r.content, id))
    IN ToldAtPrepare(st2, s, id)

(* The lease after its commit: kept under the token `f`, or given back. *)
AfterCommit(st, keep, f) ==
    IF st.entry.holder = None THEN st
    ELSE IF keep THEN Issue([st EXCEPT !.entry.holder.fence = f], <<st.inc, f>>)
    ELSE DropLease(st, "released")

(* The answer is of the moment of the effect; what the queue gets then comes after. *)
Finish(st, s, id, keep, f) ==
    LET st1 == AfterCommit(st, keep, f)
        token == IF keep /\ st.entry.holder # None THEN <<st.inc, f>> ELSE None
    IN Answer(st1, s, id, Result(TRUE, "", st1, token))

Deleter(e, s) == IF Strict(e) THEN 0 ELSE e.sharers[s]
PublishNow(st, s, id, r) ==
    LET e == Opened(st)
        v == NextVer(st, e)
        f == NextFence(e)
        own == IF r.content # None THEN v[2] ELSE Deleter(e, s)
        after == SharersAfter(e, s, own, Strict(e))
        st1 == [st EXCEPT !.entry = [e EXCEPT !.fence = f, !.ver = v, !.content = r.content, !.sharers = after],
                          !.hist = Append(@, Effect(st, v, s, id, r))]
        st2 == Emit(Log(st1, v, Routed(e, s)), Event("Inv", s, v, f, r.content, 0))
    IN GrantNext(Finish(st2, s, id, r.keep, f))

(* A publish takes a sequence of its own: reads before it are then older than every answer after it. *)
LogPublish(st) == Log(st, st.entry.ver, {})

Publish(st) ==
    LET e == st.entry
        p == e.pending
        c == p.effect.content
        own == IF c # None /\ p.shares /\ st.live[p.s] THEN p.ver[2] ELSE 0
        keep == p.keep /\ e.holder # None
        f == IF keep THEN NextFence(e) ELSE e.fence
        st0 == [st EXCEPT !.entry = [e EXCEPT !.ver = p.ver, !.content = c, !.pending = None, !.fence = f,
                                              !.level = p.level, !.sharers = SharersAfter(e, p.s, own, TRUE)],
                          !.hist = Append(@, [p.effect EXCEPT !.inc = st.inc, !.prev = Current(e)])]
        st1 == IF p.level = e.level THEN st0 ELSE Emit(st0, Event("PolicySet", "", NoVer, 0, p.level, 0))
        st2 == Finish(LogPublish(st1), p.s, p.id, keep, f)
    IN GrantNext(Emit(st2, Event("Published", p.s, p.ver, 0, c, p.id)))

(* While the slice is in quarantine nothing is published. *)
Quiet(p, st) == p.waits = {} \/ Passed(st, p.until)
MayPublish(st) ==
    LET p == st.entry.pending IN IF p = None \/ Quarantined(st) THEN FALSE ELSE Quiet(p, st)
Settle(st) == IF MayPublish(st) THEN Publish(st) ELSE st

(* A change of level makes all copies obsolete, and only a version does that: one with the same content. Nobody's copy is
   excepted, and nobody gets one with the answer. *)
PreparePolicy(st, s, id, r) ==
    LET e == st.entry
        v == NextVer(st, e)
        f == NextFence(e)
        effect == Effect(st, v, s, id, [r EXCEPT !.any = TRUE, !.content = e.content])
        p == [s |-> s, id |-> id, ver |-> v, fence |-> f, waits |-> WaitSet(st, e, None), until |-> Frozen(st),
              keep |-> FALSE, level |-> r.level, shares |-> FALSE, effect |-> effect]
    IN Emit(Log([st EXCEPT !.entry.fence = f, !.entry.pending = p], v, Sharers(e)),
            Event("Prepared", s, v, f, e.content, id))

(* ------------------------------- give-ups -------------------------------- *)
(* An acknowledgement of version number n speaks for every copy older than n, and for no other. *)
SpeaksFor(n, copy) == copy < n
Unwait(st, s) == IF st.entry.pending = None THEN st ELSE [st EXCEPT !.entry.pending.waits = @ \ {s}]
Unshare(st, s) == IF st.entry.sharers[s] = 0 THEN st
                ELSE Emit([st EXCEPT !.entry.sharers[s] = 0], Event("Dropped", s, NoVer, 0, None, 0))
(* The session holds no copy any more: it leaves the sharers, and nobody waits for it. *)
Leave(st, s) == Settle(Unwait(Unshare(st, s), s))

(* ------------------------------ idempotency ------------------------------ *)
(* A request that waits or is prepared has no result yet; its retry must find it there, not be judged again. *)
Underway(st, s, id) ==
    \/ \E i \in DOMAIN st.entry.queue : st.entry.queue[i].s = s /\ st.entry.queue[i].id = id
    \/ st.entry.pending # None /\ st.entry.pending.s = s /\ st.entry.pending.id = id
Stored(st, s, id) == st.res[s][id] # None
GaveUp(st, s, id) == Stored(st, s, id)
=============================================================================
