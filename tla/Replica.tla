------------------------------- MODULE Replica -------------------------------
(* Theory of operation.

   Servers judge by what they remember of the store. All other actions take the facts of a judgement to be those of its
   commit; this module shows why they may. One server has a memory of its own, `server`: the record as it was at some
   moment, the slice's floor, who was live, whether there was quarantine, and how long ago that was. It judges by that
   memory, and the commit that follows compares what the judgement rested on (`Guards...`); if the store shows something
   else, nothing is applied and the server learns (`Recall`).

   With every comparison in place a commit that passes is one that a server without a memory would have made, so these
   actions add no states but those of the memory; each of the mutants leaves one out. *)
EXTENDS Directory

Memory(st) == [entry |-> st.entry, floor |-> st.floor, live |-> st.live, quar |-> st.quar, age |-> 0]
View == [store EXCEPT !.entry = server.entry, !.floor = server.floor, !.live = server.live, !.quar = server.quar]

(* The guards. `rev` changes with every change of the record, its sharers' included, so comparing it compares the
   record. Whoever was live is compared too; who was over stays so. A prepare is refused when it comes late: its wait
   would count from long ago. *)
SameRecord(a, b) == a = b
SameFloor == server.entry.known \/ server.floor = store.floor
StillLive(s) == store.live[s]
StillCalm == server.quar > 0 \/ ~Quarantined(store)
InTime == server.age = 0
GuardsHold == SameRecord(server.entry, store.entry) /\ SameFloor

(* The decision that was made by memory, applied to the store: the record is the judged one, the rest is added to. *)
Applied(judged) ==
    LET n == Len(judged.hist)
    IN [Quietly(judged) EXCEPT !.live = store.live, !.quar = store.quar, !.floor = Max(store.floor, judged.floor),
                               !.hist = IF n > Len(store.hist) THEN [@ EXCEPT ![n].prev = Current(store.entry)] ELSE @]

Recall ==
    /\ Has("replica") /\ server # Memory(store)
    /\ server' = Memory(store)
    /\ UNCHANGED <<store, net, client>>

(* A reply is confirmed too: the store is asked after the read arrived. *)
Confirmed == SameRecord(server.entry, store.entry)
RecalledGetS(s) ==
    /\ s \in Readers /\ Attached(s)
    /\ Confirmed
    /\ LET reply == ReadOf(View)
           full == Cardinality(net[s].reads) >= MaxReads
       IN /\ net' = [net EXCEPT ![s].reads = IF full THEN {reply} ELSE @ \cup {reply}]
          /\ store' = [Applied(GetSOn(View, s)) EXCEPT !.oldread = @ \/ reply.ver # store.entry.ver]
    /\ UNCHANGED client

Judged(s, id) == CommitOn(View, s, id, net[s].req[id])
RecalledCommit(s, id) ==
    /\ id \in DOMAIN net[s].req /\ net[s].req[id].op = "Commit" /\ net[s].req[id].inc = store.inc
    /\ ~Stored(store, s, id) /\ ~Underway(View, s, id) /\ ~Underway(store, s, id)
    /\ GuardsHold /\ StillLive(s)
    /\ LET judged == Judged(s, id)
           prepares == judged.entry.pending # None /\ server.entry.pending = None
           publishes == Strict(server.entry) /\ judged.entry.ver # server.entry.ver
           late == [judged EXCEPT !.entry.pending.until = Max(0, @ - server.age)]
       IN /\ prepares => InTime
          /\ publishes => StillCalm
          /\ store' = Applied(IF prepares THEN late ELSE judged)
    /\ UNCHANGED <<net, client>>

RecalledExpire ==
    /\ GuardsHold
    /\ \/ MayExpire(View) /\ store' = Applied(EndLease(View, "expired"))
       \/ MayPublish(View) /\ StillCalm /\ store' = Applied(Publish(View))
       \/ MayDrop(View.entry) /\ store' = Applied(DropRecord(View))
    /\ UNCHANGED <<net, client>>

Recalled ==
    /\ Has("replica")
    /\ \/ \E s \in Session : RecalledGetS(s) \/ \E id \in Ids : RecalledCommit(s, id)
       \/ RecalledExpire
    /\ UNCHANGED server
=============================================================================
