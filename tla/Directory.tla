------------------------------ MODULE Directory ------------------------------
(* Theory of operation.

   The directory's actions, named as the events of `protocol/events.py`. Each is one atomic store commit. `XOn` is the
   rule of event X: what it makes of a state of the store. The action X says when it may happen.

   Effectful requests are executed from `net`: any request ever sent may arrive now, first or again, however late. If
   its result is stored or it is under way, nothing changes: the answer is the stored one, so there is no action for
   it. Reads are executed at the moment they are sent; that is the worst case, since executing later only shows more.
   *)
EXTENDS Entry

(* A request may take effect: it is of this incarnation, its session is live, and it is not a repetition. *)
Arrives(s, id, op) ==
    /\ id \in DOMAIN net[s].req
    /\ net[s].req[id].op = op
    /\ net[s].req[id].inc = store.inc
    /\ store.live[s]
    /\ ~(IF op = "Put" THEN GaveUp(store, s, id) ELSE Stored(store, s, id))
    /\ ~Underway(store, s, id)

Attached(s) == store.live[s] /\ client[s].inc = store.inc

(* ------------------------------- requests -------------------------------- *)
ReadOf(st) ==
    [found |-> Exists(st.entry), ver |-> st.entry.ver, asof |-> Len(st.log),
     cacheable |-> Exists(st.entry) /\ Cacheable(st), level |-> st.entry.level, steps |-> 0]
Share(st, s) ==
    IF st.entry.sharers[s] = st.entry.ver[2] THEN st
    ELSE Emit([st EXCEPT !.entry.sharers[s] = st.entry.ver[2]], Event("Shared", s, <<0, st.entry.ver[2]>>, 0, None, 0))
GetSOn(st, s) == IF ReadOf(st).cacheable THEN Share(st, s) ELSE st

GetS(s) ==
    /\ s \in Readers /\ Attached(s)
    /\ LET reply == ReadOf(store)
           full == Cardinality(net[s].reads) >= MaxReads
       IN net' = [net EXCEPT ![s].reads = IF full THEN {reply} ELSE @ \cup {reply}]
    /\ store' = Quietly(GetSOn(store, s))
    /\ UNCHANGED client

GetMOn(st, s, id, lease, waits) ==
    LET e == st.entry
        free == e.holder = None /\ e.pending = None /\ e.queue = <<>>
    IN IF free THEN Grant(st, s, id, lease, FALSE)
       ELSE IF e.pending = None /\ IsReserved(e, s) THEN Grant(DropLease(st, "handed_off"), s, id, lease, FALSE)
       ELSE IF waits THEN [st EXCEPT !.entry.queue = Append(@, [s |-> s, id |-> id, lease |-> lease])]
       ELSE Deny(st, s, id, "held")

GetM(s, id) ==
    /\ Arrives(s, id, "GetM")
    /\ store' = Quietly(GetMOn(store, s, id, id, Has("wait")))
    /\ UNCHANGED <<net, client>>

CommitOn(st, s, id, r) ==
    LET why == CommitDenial(st, s, r)
    IN IF why # "" THEN Deny(st, s, id, why)
       ELSE IF MustPrepare(st, s) THEN Prepare(st, s, id, r)
       ELSE PublishNow(st, s, id, r)

(* What gets content has the level that its prefix has then: the commit compares it. If it is prepared, from its publish
   on: until then there may be lazy copies of what was deleted. *)
Inherits(st) == IF Has("prefix") /\ ~Exists(st.entry) THEN [st EXCEPT !.entry.level = st.prefix] ELSE st
AsBefore(after, st) ==
    IF ~Exists(st.entry) /\ ~Exists(after.entry) THEN [after EXCEPT !.entry.level = st.entry.level] ELSE after
Commit(s, id) ==
    /\ Arrives(s, id, "Commit")
    /\ store' = Quietly(AsBefore(CommitOn(Inherits(store), s, id, net[s].req[id]), store))
    /\ UNCHANGED <<net, client>>

(* Gives up a lease or, without a token, the copy. Giving up a copy that is known here is a log entry, so that its
   answer has a sequence above that of every read executed before. *)
LogLeave(st, s) == IF st.entry.sharers[s] = 0 THEN st ELSE Log(st, st.entry.ver, {})
PutOn(st, s, id, r) ==
    LET copy == Leave(LogLeave(st, s), s)
        free == EndLease(st, "released")
    IN IF r.token = None THEN Answer(copy, s, id, Result(TRUE, "", copy, None))
       ELSE IF Holds(st, s, r) THEN Answer(free, s, id, Result(TRUE, "", free, None))
       ELSE Deny(st, s, id, "lease_lost")

Put(s, id) ==
    /\ Arrives(s, id, "Put")
    /\ store' = Quietly(PutOn(store, s, id, net[s].req[id]))
    /\ UNCHANGED <<net, client>>

(* An acknowledgement names the newest version whose Inv was obeyed; a copy given since then is not touched, and only
   one of the prepared version counts for its wait-set (in the code: of its round's fence). *)
InvAckOn(st, s, n) ==
    LET p == st.entry.pending
        left == IF SpeaksFor(n, st.entry.sharers[s]) THEN Unshare(st, s) ELSE st
    IN IF p = None THEN left
       ELSE IF SpeaksFor(n, p.ver[2] - 1) THEN Settle(Unwait(left, s)) ELSE left

InvAck(s) ==
    /\ Attached(s)
    /\ client[s].acked > 0
    /\ store' = Quietly(InvAckOn(store, s, client[s].acked))
    /\ store' # store
    /\ UNCHANGED <<net, client>>

(* The answer may be lost: the session then does not extend its belief. A renewal rests on the deadline not having
   passed, by the store's clock. *)
RenewOn(st) == [st EXCEPT !.entry.holder.left = Term]
Renew(s) ==
    /\ Has("renew") /\ Attached(s)
    /\ client[s].token # None
    /\ Holds(store, s, client[s].token) /\ ~Passed(store, store.entry.holder.left)
    /\ store' = RenewOn(store)
    /\ client' \in {client, [client EXCEPT ![s].wleft = Term]}
    /\ UNCHANGED net

NeedsRound(st, r) == r.level # st.entry.level /\ (WaitSet(st, st.entry, None) # {} \/ Quarantined(st))
SetPolicyOn(st, s, id, r) ==
    LET e == st.entry
        st1 == IF r.level = e.level THEN st
               ELSE Emit([st EXCEPT !.entry.level = r.level], Event("PolicySet", "", NoVer, 0, r.level, 0))
        round == NeedsRound(st, r)
    IN IF ~Exists(e) THEN Deny(st, s, id, "not_found")
       ELSE IF e.pending # None \/ (round /\ e.holder # None) THEN Deny(st, s, id, "held")
       ELSE IF round THEN PreparePolicy(st, s, id, r)
       ELSE Answer(st1, s, id, Result(TRUE, "", st1, None))

(* The prefix gets another level, once (where an artifact is deleted and made again: meanwhile); and what exists takes it
   over, as if nobody had asked for it. *)
SetPrefix ==
    /\ Has("prefix") /\ store.prefix = Level /\ (Has("remake") => ~Exists(store.entry))
    /\ store' = [store EXCEPT !.prefix = IF Level = "lazy" THEN "strict" ELSE "lazy"]
    /\ UNCHANGED <<net, client>>
Inherit ==
    /\ Has("prefix") /\ Exists(store.entry) /\ store.entry.level # store.prefix
    /\ store' = Quietly(SetPolicyOn(store, None, 0, [op |-> "SetPolicy", inc |-> store.inc, token |-> None, base |-> NoVer,
                                                     any |-> TRUE, content |-> None, level |-> store.prefix]))
    /\ UNCHANGED <<net, client>>

SetPolicy(s, id) ==
    /\ Arrives(s, id, "SetPolicy")
    /\ store' = Quietly(SetPolicyOn(store, s, id, net[s].req[id]))
    /\ UNCHANGED <<net, client>>

(* The successor comes before everybody who waits. If it waits itself, its wait is over; else the lease is reserved for
   its next GetM. *)
Without(q, i) == [j \in 1..(Len(q) - 1) |-> IF j < i THEN q[j] ELSE q[j + 1]]
HandOver(st, to) ==
    LET waits == {i \in DOMAIN st.entry.queue : st.entry.queue[i].s = to}
        first == CHOOSE i \in waits : \A j \in waits : i <= j
        w == st.entry.queue[first]
    IN IF waits = {} THEN GiveLease(st, to, Reserved, 0)
       ELSE Grant([st EXCEPT !.entry.queue = Without(@, first)], w.s, w.id, w.lease, TRUE)
HandoffOn(st, s, id, r) ==
    LET st1 == HandOver(DropLease(st, "handed_off"), r.to)
    IN IF ~FenceOk(st, s, r) THEN Deny(st, s, id, "stale_fence")
       ELSE IF st.entry.pending # None THEN Deny(st, s, id, "held")
       ELSE IF ~st.live[r.to] THEN Deny(st, s, id, "successor_lost")
       ELSE Answer(st1, s, id, Result(TRUE, "", st1, None))

Handoff(s, id) ==
    /\ Arrives(s, id, "Handoff")
    /\ store' = Quietly(HandoffOn(store, s, id, net[s].req[id]))
    /\ UNCHANGED <<net, client>>

(* -------------------------------- the sweeper ----------------------------- *)
MayExpire(st) == st.entry.holder # None /\ Passed(st, st.entry.holder.left)
ExpireHolder == MayExpire(store) /\ store' = Quietly(EndLease(store, "expired"))

(* A waiter's deadline is not counted: it may pass at any time. *)
RefuseWaiter(st, i) ==
    LET w == st.entry.queue[i]
    IN Emit(Deny([st EXCEPT !.entry.queue = Without(@, i)], w.s, w.id, "wait_timeout"),
            Event("Refused", w.s, NoVer, 0, None, w.id))
ExpireWaiter == \E i \in DOMAIN store.entry.queue : store' = Quietly(RefuseWaiter(store, i))

ExpirePending == MayPublish(store) /\ store' = Quietly(Publish(store))

(* Neither is a tombstone's: dropping it raises the floor, and that alone must keep an earlier life apart. *)
FloorAfter(st) == Max(st.floor, Max(st.entry.ver[2], st.entry.fence))
MayDrop(e) == e.known /\ ~Exists(e) /\ e.holder = None /\ e.pending = None /\ e.queue = <<>>
DropRecord(st) == [st EXCEPT !.entry = NoEntry, !.floor = FloorAfter(st)]
(* But a tombstone outlives the lazy copies of what was deleted, or whoever makes it again strict would not know of them. *)
OutlivesCopies(st) == Has("prefix") => \A i \in DOMAIN st.hist : st.hist[i].since > Delta
ExpireTombstone == MayDrop(store.entry) /\ OutlivesCopies(store) /\ store' = DropRecord(store)

Expire == (ExpireHolder \/ ExpireWaiter \/ ExpirePending \/ ExpireTombstone) /\ UNCHANGED <<net, client>>

(* What a session that is over leaves behind: its copy, its places in the queue, its lease. A prepared commit of it
   stays, and gives it no copy. Nobody waits for its copies: its deadline passed and theirs before, or its memory is
   gone, and that is followed by a quarantine. *)
RefusedWaiters(st, s) ==
    LET Mine(w) == w.s = s
        gone == SelectSeq(st.entry.queue, Mine)
        events == [i \in DOMAIN gone |-> Event("Refused", s, NoVer, 0, None, gone[i].id)]
        Other(w) == w.s # s
    IN [st EXCEPT !.entry.queue = SelectSeq(@, Other), !.out = @ \o events]
EndSessionOn(st, s, cause) ==
    LET p == st.entry.pending
        st0 == IF p = None THEN st ELSE [st EXCEPT !.entry.pending.shares = @ /\ p.s # s]
        st1 == RefusedWaiters(Leave(st0, s), s)
        mine == st1.entry.holder # None /\ st1.entry.holder.s = s
    IN IF mine THEN EndLease(st1, cause) ELSE GrantNext(st1)

(* A session is given up only when every permission that it was given with a deadline has run out (a session that closes
   itself drops them first). *)
RunOut(s) == Passed(store, store.dl[s])
             /\ ~(store.entry.holder # None /\ store.entry.holder.s = s /\ store.entry.holder.left > 0)
Over(st, s) == [st EXCEPT !.live[s] = FALSE]
Remains(e, s) ==
    \/ e.sharers[s] > 0 \/ \E i \in DOMAIN e.queue : e.queue[i].s = s
    \/ IF e.holder = None THEN FALSE ELSE e.holder.s = s
EndSession(s) ==
    /\ \/ Has("end") /\ store.live[s] /\ RunOut(s)
       \/ ~store.live[s] /\ Remains(store.entry, s)
    /\ store' = Quietly(EndSessionOn(Over(store, s), s, "session_lost"))
    /\ UNCHANGED <<net, client>>

(* ------------------------------- store loss ------------------------------- *)
(* The store is found to be another one: restarted with everything, rolled back to an earlier version, or empty. All
   sessions are over with the new incarnation; what they leave behind is cleared by the sweeper. A pending commit stays,
   if it is still there. *)
AdoptedAll(st) ==
    [st EXCEPT !.inc = @ + 1, !.losses = @ + 1, !.log = <<>>, !.live = [s \in Session |-> FALSE],
               !.quar = IF UsesStrict THEN Term ELSE 0]
Adopted(st, k) ==
    LET back == IF k = 0 THEN NoEntry
                ELSE [NoEntry EXCEPT !.known = TRUE, !.ver = st.hist[k].ver, !.content = st.hist[k].content]
    IN IF k > Len(st.hist) THEN AdoptedAll(st)
       ELSE [AdoptedAll(st) EXCEPT
                !.entry = back,
                !.hist = [i \in DOMAIN @ |-> [@[i] EXCEPT !.lost = @ \/ i > k]],
                !.floor = 0,
                !.res = [s \in Session |-> [i \in Ids |-> None]],
                !.dl = [s \in Session |-> 0]]

StoreLoss ==
    /\ Has("loss") /\ store.losses < MaxLosses
    /\ \E k \in 0..(Len(store.hist) + 1) : store' = Adopted(store, k)
    /\ UNCHANGED <<net, client>>

(* ------------------------------- the clock -------------------------------- *)
(* The store's clock is set wrong, by more than is put up with. A server that knew the time finds it, and notes the
   offset that makes the time right again. A server that did not (nobody has vouched for the time lately) takes the
   clock's word, but never goes back: deadlines may pass too early then. Either way nobody knows what was given
   meanwhile, so a quarantine of a term follows. *)
ClockJump ==
    /\ Has("jump") /\ store.losses < MaxLosses /\ store.skew = 0
    /\ \E by \in {-Term, Term} : store' = [store EXCEPT !.skew = by, !.losses = @ + 1]
    /\ UNCHANGED <<net, client>>

Calming(st) == IF UsesStrict THEN [st EXCEPT !.quar = Term] ELSE st
Less(left, by) == IF by > left THEN 0 ELSE left - by
Shifted(st, by) ==
    [st EXCEPT !.skew = 0,
               !.dl = [s \in Session |-> Less(@[s], by)],
               !.entry.holder = IF @ = None THEN None ELSE [@ EXCEPT !.left = Less(@, by)],
               !.entry.pending = IF @ = None THEN None ELSE [@ EXCEPT !.until = Less(@, by)]]

Corrected(st) == [st EXCEPT !.skew = 0]
Ticker ==
    /\ store.skew # 0 /\ store' = Calming(Corrected(store))
    /\ UNCHANGED <<net, client>>

ColdStart ==
    /\ store.skew # 0
    /\ store' = [Calming(Shifted(store, Max(0, store.skew))) EXCEPT !.cold = store.skew > 0]
    /\ UNCHANGED <<net, client>>
=============================================================================
