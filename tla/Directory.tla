------------------------------ MODULE Directory ------------------------------
(* Theory of operation.

   The directory's actions, named as the events of `protocol/events.py`. Each is one atomic store commit.

   Effectful requests are executed from `net`: any request ever sent may arrive now, first or again, however late. If
   its result is stored or it is under way, nothing changes: the answer is the stored one, so there is no action for
   it. Reads are executed at the moment they are sent; that is the worst case, since executing later only shows more.
   *)
EXTENDS Entry

Has(f) == f \in Features

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
Cacheable == store.entry.pending = None /\ ~Quarantined(store)

GetS(s) ==
    /\ s \in Readers /\ Attached(s)
    /\ LET e == store.entry
           reply == [found |-> Exists(e), ver |-> e.ver, asof |-> Len(store.log), cacheable |-> Exists(e) /\ Cacheable]
           full == Cardinality(net[s].reads) >= MaxReads
       IN /\ net' = [net EXCEPT ![s].reads = IF full THEN {reply} ELSE @ \cup {reply}]
          /\ store' = IF reply.cacheable THEN [store EXCEPT !.entry.sharers[s] = e.ver[2]] ELSE store
    /\ UNCHANGED client

GetM(s, id) ==
    /\ Arrives(s, id, "GetM")
    /\ LET e == store.entry
           free == e.holder = None /\ e.pending = None /\ e.queue = <<>>
       IN store' = IF free THEN Grant(store, s, id)
                   ELSE IF Has("wait") THEN [store EXCEPT !.entry.queue = Append(@, [s |-> s, id |-> id])]
                   ELSE Deny(store, s, id, "held")
    /\ UNCHANGED <<net, client>>

Commit(s, id) ==
    /\ Arrives(s, id, "Commit")
    /\ LET r == net[s].req[id]
           why == CommitDenial(store, s, r)
       IN store' = IF why # "" THEN Deny(store, s, id, why) ELSE Settle(Prepare(store, s, id, r))
    /\ UNCHANGED <<net, client>>

(* Gives up a lease or, without a token, the copy. Giving up a copy is a log entry, so that its answer has a sequence
   above that of every read executed before. *)
LogLeave(st) == Log(st, st.entry.ver, {})
Put(s, id) ==
    /\ Arrives(s, id, "Put")
    /\ LET r == net[s].req[id]
           copy == Settle(LogLeave(Leave(store, s)))
           free == EndLease(store)
       IN store' = IF r.token = None THEN Answer(copy, s, id, Result(TRUE, "", copy, None))
                   ELSE IF Holds(store, s, r) THEN Answer(free, s, id, Result(TRUE, "", free, None))
                   ELSE Deny(store, s, id, "lease_lost")
    /\ UNCHANGED <<net, client>>

(* An acknowledgement names the newest version whose Inv was obeyed; a copy given since then is not touched. *)
InvAck(s) ==
    /\ Attached(s)
    /\ LET n == client[s].acked
           e == store.entry
           drop == e.sharers[s] > 0 /\ SpeaksFor(n, e.sharers[s])
           quiet == e.pending # None /\ e.pending.waits[s] # None /\ SpeaksFor(n, e.pending.ver[2] - 1)
           st1 == IF drop THEN [store EXCEPT !.entry.sharers[s] = 0] ELSE store
       IN /\ n > 0 /\ (drop \/ quiet)
          /\ store' = IF quiet THEN Settle(Unwait(st1, s)) ELSE st1
    /\ UNCHANGED <<net, client>>

(* The answer may be lost: the session then does not extend its belief. *)
Renew(s) ==
    /\ Has("renew") /\ Attached(s)
    /\ client[s].token # None
    /\ Holds(store, s, client[s].token)
    /\ store' = [store EXCEPT !.entry.holder.left = Term]
    /\ client' \in {client, [client EXCEPT ![s].wleft = Term]}
    /\ UNCHANGED net

(* -------------------------------- the sweeper ----------------------------- *)
ExpireHolder ==
    /\ store.entry.holder # None /\ store.entry.holder.left = 0
    /\ store' = EndLease(store)

(* A waiter's deadline is not counted: it may pass at any time. *)
ExpireWaiter ==
    /\ store.entry.queue # <<>>
    /\ LET w == Head(store.entry.queue)
       IN store' = Deny([store EXCEPT !.entry.queue = Tail(@)], w.s, w.id, "wait_timeout")

ExpirePending == MayPublish(store) /\ store' = Publish(store)

(* Neither is a tombstone's: dropping it raises the floor, and that alone must keep an earlier life apart. *)
FloorAfter(st) == Max(st.floor, Max(st.entry.ver[2], st.entry.fence))
ExpireTombstone ==
    /\ LET e == store.entry
       IN e.known /\ ~Exists(e) /\ e.holder = None /\ e.pending = None /\ e.queue = <<>>
    /\ store' = [store EXCEPT !.entry = NoEntry, !.floor = FloorAfter(store)]

Expire == (ExpireHolder \/ ExpireWaiter \/ ExpirePending \/ ExpireTombstone) /\ UNCHANGED <<net, client>>

(* A session is given up only when every permission that it was given with a deadline has run out (a session that closes
   itself drops them first). A prepared commit of it stays. *)
RunOut(s) == store.dl[s] = 0 /\ ~(store.entry.holder # None /\ store.entry.holder.s = s /\ store.entry.holder.left > 0)
EndSession(s) ==
    /\ Has("end") /\ store.live[s] /\ RunOut(s)
    /\ LET mine == store.entry.holder # None /\ store.entry.holder.s = s
           Other(w) == w.s # s
           st1 == [Leave(store, s) EXCEPT !.live[s] = FALSE, !.entry.queue = SelectSeq(@, Other)]
       IN store' = Settle(IF mine THEN EndLease(st1) ELSE GrantNext(st1))
    /\ UNCHANGED <<net, client>>

(* ------------------------------- store loss ------------------------------- *)
(* The store is found to be another one: restarted with everything, rolled back to an earlier version, or empty. The new
   incarnation ends all sessions, leases and waits, and keeps a pending commit if it is still there. *)
Adopted(st, k) ==
    LET all == k > Len(st.hist)
        kept == [st.entry EXCEPT !.holder = None, !.fence = @ + 1, !.queue = <<>>, !.sharers = NoEntry.sharers,
                 !.pending = IF @ = None THEN None ELSE [@ EXCEPT !.waits = [s \in Session |-> None], !.keep = FALSE]]
        back == IF k = 0 THEN NoEntry
                ELSE [NoEntry EXCEPT !.known = TRUE, !.ver = st.hist[k].ver, !.content = st.hist[k].content]
    IN [st EXCEPT !.inc = @ + 1, !.losses = @ + 1, !.log = <<>>,
        !.entry = IF all THEN kept ELSE back,
        !.hist = [i \in DOMAIN @ |-> [@[i] EXCEPT !.lost = @ \/ i > k]],
        !.floor = IF all THEN @ ELSE 0,
        !.res = IF all THEN @ ELSE [s \in Session |-> [i \in Ids |-> None]],
        !.live = [s \in Session |-> FALSE],
        !.dl = [s \in Session |-> 0],
        !.quar = IF Level = "strict" THEN Term ELSE 0]

StoreLoss ==
    /\ Has("loss") /\ store.losses < MaxLosses
    /\ \E k \in 0..(Len(store.hist) + 1) : store' = Adopted(store, k)
    /\ UNCHANGED <<net, client>>
=============================================================================
