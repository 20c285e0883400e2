------------------------------ MODULE Homenode -------------------------------
(* Theory of operation.

   The whole system: all actions, fairness, what must hold (invariants and liveness), and what must be reachable
   (situations), so that nothing holds only because nothing happens. *)
EXTENDS Time

Init == /\ store = InitStore /\ net = InitNet /\ client = InitClient
        /\ server = IF Has("replica") THEN Memory(InitStore) ELSE None

WithoutMemory ==
    \/ \E s \in Session : \/ GetS(s) \/ InvAck(s) \/ Renew(s) \/ EndSession(s)
                          \/ Ask(s) \/ Resolve(s) \/ Reply(s) \/ ReadReply(s) \/ SeeIncarnation(s)
                          \/ Resync(s) \/ Bookmark(s) \/ ApplyBookmark(s) \/ Step(s)
    \/ \E s \in Session, id \in Ids : GetM(s, id) \/ Commit(s, id) \/ Put(s, id) \/ SetPolicy(s, id) \/ Handoff(s, id)
    \/ \E s \in Session, i \in DOMAIN store.log : Deliver(s, i)
    \/ SetPrefix \/ Inherit
    \/ Expire \/ StoreLoss \/ ClockJump \/ Ticker \/ ColdStart

Next == (WithoutMemory /\ UNCHANGED server) \/ Recall \/ Recalled \/ Tick

Spec == Init /\ [][Next]_vars

(* Time passes, the sweeper sweeps, and the stream delivers in the end; clients need do nothing. *)
Fair ==
    /\ WF_vars(Tick) /\ WF_vars(Expire /\ UNCHANGED server)
    /\ \A s \in Session : WF_vars(\E i \in DOMAIN store.log : Deliver(s, i) /\ UNCHANGED server)
FairSpec == Spec /\ Fair

Symmetry == Permutations(Session)

(* Only mutants need it: they may do more than the requests allow. *)
Bounded == Len(store.hist) <= MaxAsks + (IF Has("prefix") THEN 2 ELSE 1) /\ Len(store.log) <= 2 * MaxAsks + 1

(* ------------------------------- invariants ------------------------------- *)
H == store.hist
HolderOf(s) == client[s].token # None /\ client[s].wleft > 0

TypeOK ==
    /\ \A s \in Session : \A i \in DOMAIN net[s].req : net[s].req[i] \in Request
    /\ \A s \in Session : client[s].applied <= Len(store.log) \/ client[s].inc < store.inc
    /\ store.entry.holder # None => store.entry.holder.fence <= store.entry.fence
    /\ store.entry.pending # None => store.entry.pending.fence <= store.entry.fence
    /\ store.entry.queue # <<>> => store.entry.holder # None \/ store.entry.pending # None
    /\ ~UsesStrict => store.entry.pending = None
    /\ store.out = <<>>

(* Whoever believes in its write lease is the holder, unless nobody vouched for the time; then fences alone protect. *)
SWMR == \A s \in Session : HolderOf(s) /\ client[s].inc = store.inc /\ ~store.cold =>
            store.entry.holder # None /\ store.entry.holder.s = s
FenceUnique == ~store.reissued
NoStaleCommit == \A i \in DOMAIN H : ~H[i].stale
NoLostUpdate == \A i \in DOMAIN H : H[i].any \/ H[i].base = H[i].prev
VersionsRise == \A i, j \in DOMAIN H : i < j => Lt(H[i].ver, H[j].ver)
VersionIsContent == \A i, j \in DOMAIN H : H[i].ver = H[j].ver => H[i].content = H[j].content
OneEffect == \A i, j \in DOMAIN H : H[i].by = H[j].by => i = j

(* Answers are true: a commit is acknowledged if and only if it took effect. *)
AnswersTrue ==
    \A s \in Session : \A id \in DOMAIN net[s].req :
        LET r == store.res[s][id]
        IN net[s].req[id].op = "Commit" /\ r # None => (r.ok <=> \E i \in DOMAIN H : H[i].by = <<s, id>>)

(* Of what was said never to run, nothing takes effect. *)
NeverIsNever == \A i \in DOMAIN H : H[i].by \notin store.never

(* A request has one answer: none is stored while it waits or is prepared. *)
OneAnswer ==
    \A s \in Session : \A id \in DOMAIN net[s].req : store.res[s][id] # None =>
        /\ \A w \in Range(store.entry.queue) : <<w.s, w.id>> # <<s, id>>
        /\ store.entry.pending # None => <<store.entry.pending.s, store.entry.pending.id>> # <<s, id>>

(* A session is never shown an older version after a newer one, its own commits and leases included. *)
MonotoneReads == \A s \in Session : ~client[s].back /\ (Readable(s) => ~Lt(client[s].cache, client[s].shown))

(* The sharers are a superset: whoever holds a copy is one, or an Inv for it is on its way. *)
SharersCover ==
    \A s \in Session :
        client[s].cache # None /\ client[s].inc = store.inc /\ store.live[s] =>
            \/ store.entry.sharers[s] > 0
            \/ \E i \in (client[s].applied + 1)..Len(store.log) :
                    s \in store.log[i].to /\ Lt(client[s].cache, store.log[i].ver)

(* -------------------------------- liveness -------------------------------- *)
PendingPublished == \A s \in Session, id \in Ids :
    (store.entry.pending # None /\ store.entry.pending.s = s /\ store.entry.pending.id = id)
        ~> (\E i \in DOMAIN H : H[i].by = <<s, id>>)
LeaseFreed == \A s \in Session, id \in Ids :
    (store.entry.holder # None /\ store.entry.holder.s = s /\ store.entry.holder.lease = id)
        ~> ~(store.entry.holder # None /\ store.entry.holder.s = s /\ store.entry.holder.lease = id)
CatchesUp == \A s \in Readers : <>[](client[s].applied = Len(store.log))

(* ------------------------------- situations ------------------------------- *)
(* Each is printed once (per worker) when a state shows it; run.py wants to see those that the manifest lists. *)
Denied(why) == \E s \in Session, id \in Ids : store.res[s][id] # None /\ store.res[s][id].why = why

LostInv == \E s \in Session : /\ client[s].cache # None /\ client[s].inc = store.inc
                              /\ Lt(client[s].cache, store.entry.ver) /\ ~Readable(s)
StaleRead == \E s \in Session : Readable(s) /\ Lt(client[s].cache, store.entry.ver)
InvBeforeFill == \E s \in Session : \E r \in net[s].reads : r.cacheable /\ r.asof < client[s].heard
Reordered == \E s \in Session : client[s].acked > 0 /\ client[s].applied + 1 < client[s].heard
ZombieCommit == Denied("stale_fence")
Conflict == Denied("version_conflict")
Recreated == \E i, j \in DOMAIN H : i < j /\ H[i].content = None /\ H[j].content # None
AboveFloor == store.floor > 0 /\ Exists(store.entry) /\ store.entry.ver[2] > store.floor
Handover == Len(H) > 1 /\ store.top[2] > 2 /\ store.entry.holder # None
Waited == store.entry.queue # <<>>
LatePublish == \E s \in Session : /\ client[s].mode = "strict" /\ client[s].cache # None
                                  /\ client[s].inc = store.inc /\ Lt(client[s].cache, store.entry.ver)
RenewedWhilePending == store.entry.pending # None /\ \E s \in store.entry.pending.waits :
                            store.dl[s] > store.entry.pending.until
ReadWhilePending == store.entry.pending # None /\ \E s \in Session : \E r \in net[s].reads : r.found /\ ~r.cacheable
DeadCommitter == store.entry.pending # None /\ store.entry.pending.s # None /\ ~store.live[store.entry.pending.s]
RolledForward == \E i \in DOMAIN H : H[i].inc > H[i].ver[1]
LostCommit == \E i \in DOMAIN H : H[i].lost
StepsTaken == Has("steps") /\ \E s \in Session : client[s].cache # None /\ ~StepsOk(client[s]) /\ client[s].fresh <= Delta
OldCopy == \E s \in Session : Readable(s) /\ client[s].inc < store.inc
NewLife == \E i \in DOMAIN H : H[i].ver[1] > 1
ToldOfNever == store.never # {}
Quarantine == store.quar > 0
LevelChanged == store.entry.level # Level
LazyWaitedFor == store.entry.pending # None
                 /\ \E s \in store.entry.pending.waits : Readable(s) /\ client[s].mode = "lazy"
HandedOver == store.entry.holder # None /\ IsReserved(store.entry, store.entry.holder.s)

Seen(k, name, holds) == IF TLCGet(k) = 0 /\ holds THEN TLCSet(k, 1) /\ PrintT(<<"situation", name>>) ELSE TRUE
ASSUME \A k \in 1..24 : TLCSet(k, 0)
Situations ==
    /\ Seen(1, "LostInv", LostInv) /\ Seen(2, "StaleRead", StaleRead) /\ Seen(3, "InvBeforeFill", InvBeforeFill)
    /\ Seen(4, "Reordered", Reordered) /\ Seen(5, "ZombieCommit", ZombieCommit) /\ Seen(6, "Conflict", Conflict)
    /\ Seen(7, "Recreated", Recreated) /\ Seen(8, "AboveFloor", AboveFloor) /\ Seen(9, "Handover", Handover)
    /\ Seen(10, "Waited", Waited) /\ Seen(11, "LatePublish", LatePublish)
    /\ Seen(12, "RenewedWhilePending", RenewedWhilePending) /\ Seen(13, "ReadWhilePending", ReadWhilePending)
    /\ Seen(14, "DeadCommitter", DeadCommitter) /\ Seen(15, "RolledForward", RolledForward)
    /\ Seen(16, "LostCommit", LostCommit) /\ Seen(17, "OldCopy", OldCopy) /\ Seen(18, "NewLife", NewLife)
    /\ Seen(19, "ToldNever", ToldOfNever) /\ Seen(20, "Quarantine", Quarantine)
    /\ Seen(21, "LevelChanged", LevelChanged) /\ Seen(22, "HandedOver", HandedOver)
    /\ Seen(23, "StepsTaken", StepsTaken) /\ Seen(24, "LazyWaitedFor", LazyWaitedFor)
=============================================================================
