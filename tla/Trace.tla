-------------------------------- MODULE Trace --------------------------------
(* Theory of operation.

   The slice log of a real run, explained by the rules of `Directory`. `Runs` is what `tests/spec/traces.py` made of
   logs: a run is a sequence of log entries; an entry is one store commit to one artifact, with the events that
   `protocol/` put into it. Every event must be what some rule, applied to the state so far, puts out (`out`), in that
   order. What no rule explains ends the run there; a run is accepted when it is explained to its last event.

   What the log does not have is supplied from what it has:

     - a request that waited in a queue is put there just before the entry that answers it;
     - a session that a prepare does not wait for although it has a copy is over (one that is over may be waited for); a
       committer whose session ended meanwhile gets no copy, unless the server has not heard of its end;
     - renewals and refusals change nothing that is logged; `rev` has gaps for them, but only rises;
     - dropping a tombstone is not logged: a deleted artifact may begin anew, above the floor;
     - deadlines are those that the wait-sets name, and the time is that of the entry. (Here they are milliseconds of
       the run: `skew` is the time, see Entry!Passed.) Those of leases and waiters are not logged; they may pass.

   A session is over when the log says so, and with the incarnation that it began in. *)
EXTENDS Directory

CONSTANT Artifacts

(* A sequence of `ARun`, in a register that the generated module sets: TLC walks through whatever an operator refers to,
   for every operator. *)
Register == 1000000
Runs == TLCGet(Register)

(* How `Runs` is written down. *)
AnEvent(kind, s, ver, fence, what, id, lease) ==
    [kind |-> kind, s |-> s, ver |-> ver, fence |-> fence, what |-> what, id |-> id, lease |-> lease]
Of(pairs, s, otherwise) == IF \E p \in pairs : p[1] = s THEN (CHOOSE p \in pairs : p[1] = s)[2] ELSE otherwise
ALine(seq, key, rev, now, inc, keep, waits, until, events) ==
    [seq |-> seq, key |-> key, rev |-> rev, now |-> now, inc |-> inc, keep |-> keep, events |-> events,
     waits |-> waits, until |-> until]
ARun(name, sound, level, born, log) ==
    [name |-> name, sound |-> sound, level |-> level, log |-> log, born |-> [s \in Session |-> Of(born, s, 0)]]
(* What a corrupted run differs in: `base` up to `begin`, the lines `between`, and `base` again after `rest`, with its
   sequences shifted. *)
Resumed(log, rest, by) == [i \in 1..(Len(log) - rest) |-> [log[rest + i] EXCEPT !.seq = @ + by]]
Spoilt(name, base, born, begin, between, rest, by) ==
    [base EXCEPT !.name = name, !.sound = FALSE, !.born = [s \in Session |-> Of(born, s, 0)],
                 !.log = SubSeq(@, 1, begin) \o between \o Resumed(@, rest, by)]

VARIABLES run, at, nth, others
traceVars == <<vars, run, at, nth, others>>

R == Runs[run]
Line == R.log[at]
Rest == SubSeq(Line.events, nth, Len(Line.events))

(* Quarantine is not logged: a round that nobody is waited for in, and that is not published, is in one. Neither is a
   round over before the last of those that acknowledge together has left. *)
Leaving == {"Dropped", "Refused", "Ended"}
PublishesNext == /\ \E i \in DOMAIN Rest : Rest[i].kind = "Published"
                 /\ ~(Len(Rest) > 1 /\ Rest[2].kind = "Dropped")

(* ------------------------------ one artifact ------------------------------ *)
Nothing == [NoEntry EXCEPT !.level = R.level]
Fresh == [entry |-> Nothing, rev |-> 0, top |-> NoVer, reissued |-> FALSE]

Here == [store EXCEPT !.entry = others[Line.key].entry, !.top = others[Line.key].top,
                      !.reissued = others[Line.key].reissued, !.skew = Line.now, !.out = <<>>,
                      !.quar = IF Head(Rest).kind \in Leaving /\ ~PublishesNext THEN 1 ELSE 0]

(* --------------------------- what is not logged --------------------------- *)
(* An artifact without a record begins at a floor that only rises. *)
Unborn(st, fence) == [st EXCEPT !.entry = Nothing, !.floor = fence - 1]
Begun(st) ==
    LET e == st.entry
        fence == Head(Rest).fence
    IN (IF e.known THEN {st} ELSE {})
       \cup (IF nth = 1 /\ fence > 0 /\ (IF e.known THEN MayDrop(e) /\ fence - 1 >= FloorAfter(st)
                                         ELSE fence - 1 >= st.floor)
             THEN {Unborn(st, fence)} ELSE {})

Waited(ev) == (ev.kind = "Granted" /\ ev.id > 0) \/ ev.kind = "Refused"
InQueue(st, ev) == \E i \in DOMAIN st.entry.queue : st.entry.queue[i].s = ev.s /\ st.entry.queue[i].id = ev.id
Lease(ev) == IF ev.kind = "Granted" THEN ev.what ELSE ""

RECURSIVE Queued(_, _)
Queued(st, events) ==
    IF events = <<>> THEN st
    ELSE LET ev == Head(events)
         IN Queued(IF Waited(ev) /\ ~InQueue(st, ev) THEN GetMOn(st, ev.s, ev.id, Lease(ev), TRUE) ELSE st, Tail(events))
Before(st) == IF nth = 1 THEN Queued(st, Rest) ELSE st

(* -------------------------------- the rules ------------------------------- *)
TheRequest(st, ev) ==
    [op |-> "Commit", inc |-> st.inc, lease |-> ev.lease, base |-> NoVer, any |-> TRUE, keep |-> Line.keep,
     token |-> IF ev.lease = "" \/ st.entry.holder = None THEN (IF ev.lease = "" THEN None ELSE NoVer)
               ELSE <<st.inc, st.entry.holder.fence>>,
     content |-> ev.what, level |-> st.entry.level]
ThePut(st, ev) ==
    [op |-> "Put", lease |-> ev.what[1], token |-> IF st.entry.holder = None THEN NoVer
                                                   ELSE <<st.inc, st.entry.holder.fence>>]
TheHandoff(st, ev) == [ThePut(st, ev) EXCEPT !.op = "Handoff"] @@ [to |-> Rest[2].s]
TheLeave == [op |-> "Put", lease |-> "", token |-> None]

ThePolicy(st, level) == [op |-> "SetPolicy", inc |-> st.inc, token |-> None, base |-> Current(st.entry), level |-> level,
                         any |-> TRUE, content |-> None]
Other(level) == IF level = "lazy" THEN "strict" ELSE "lazy"
Plain(ev) == Event(ev.kind, ev.s, ev.ver, ev.fence, ev.what, ev.id)

(* A prepare waits for the sharers of whose end the server has not heard; whoever it does not wait for is over. One that
   waits for nobody is in quarantine. *)
Waiting(st, ev) ==
    [st EXCEPT !.live = [t \in Session |-> t = ev.s \/ t \in Line.waits], !.quar = IF Line.waits = {} THEN 1 ELSE 0]
Heard(after, st, ev) ==
    [after EXCEPT !.live = [t \in Session |->
        st.live[t] /\ (st.entry.sharers[t] = 0 \/ t = ev.s \/ t \in Line.waits)]]
Alone(st) == [st EXCEPT !.entry.pending.shares = FALSE]
Unaware(st) ==
    IF st.entry.pending.s = "" THEN st
    ELSE [Publish([st EXCEPT !.live[st.entry.pending.s] = TRUE]) EXCEPT !.live = st.live]

SessionEnds(ev) == \E i \in DOMAIN Rest : Rest[i].s = ev.s /\ (Rest[i].kind = "Refused" \/ Rest[i].kind = "Ended")
Newest(e) == IF e.pending = None THEN e.ver[2] ELSE e.pending.ver[2]

(* By which action, to which states, an event may have come. *)
By(action, st) == [action |-> action, st |-> st]
CauseOf(ev) == LET ends == {i \in DOMAIN Rest : Rest[i].kind = "Ended" /\ Rest[i].s = ev.s}
               IN IF ends = {} THEN "session_lost" ELSE Rest[CHOOSE i \in ends : TRUE].what[2]
SessionEnded(st, ev) == By("EndSession", EndSessionOn(Over(st, ev.s), ev.s, CauseOf(ev)))
Causes(st, ev) ==
    CASE ev.kind = "Shared" -> {By("GetS", GetSOn(st, ev.s))}
      [] ev.kind = "Granted" ->
            {By("GetM", IF ev.id = 0 THEN GetMOn(st, ev.s, 0, ev.what, FALSE) ELSE GrantNext(st))}
      [] ev.kind = "Inv" -> {By("Commit", CommitOn(st, ev.s, 0, TheRequest(st, ev)))}
      [] ev.kind = "Prepared" ->
            LET st1 == Waiting(st, ev)
            IN (IF ev.s = "" THEN {} ELSE {By("Commit", Heard(CommitOn(st1, ev.s, ev.id, TheRequest(st1, ev)), st, ev))})
               \cup {By(IF ev.s = "" THEN "Inherit" ELSE "SetPolicy", Heard(SetPolicyOn(st1, ev.s, ev.id, ThePolicy(st1, Other(st1.entry.level))), st, ev))}
      [] ev.kind = "PolicySet" /\ ~Exists(st.entry) /\ st.entry.pending = None ->
            {By("Commit", Emit([st EXCEPT !.entry = [Opened(st) EXCEPT !.level = ev.what]], Plain(ev)))}
      [] ev.kind = "PolicySet" /\ ev.what = st.entry.level -> {By("SetPolicy", Emit(st, Plain(ev)))}
      [] ev.kind = "PolicySet" /\ st.entry.pending = None ->
            {By("SetPolicy", SetPolicyOn(st, "", 0, ThePolicy(st, ev.what)))}
      [] ev.kind \in {"Published", "PolicySet"} /\ st.entry.pending # None ->
            IF MayPublish(st)
            THEN {By("Expire", Publish(st)), By("Expire", Publish(Alone(st))), By("Expire", Unaware(st))} ELSE {}
      [] ev.kind = "Ended" ->
            IF st.entry.holder = None THEN {}
            ELSE IF ev.what[2] = "released" THEN {By("Put", PutOn(st, ev.s, 0, ThePut(st, ev)))}
            ELSE IF ev.what[2] = "handed_off" /\ Len(Rest) = 1 THEN {}
            ELSE IF ev.what = <<Reserved, "handed_off">> THEN {By("GetM", GetMOn(st, ev.s, 0, Rest[2].what, FALSE))}
            ELSE IF ev.what[2] = "handed_off" THEN {By("Handoff", HandoffOn(st, ev.s, 0, TheHandoff(st, ev)))}
            ELSE IF ev.what[2] = "expired" THEN {By("Expire", DropLease(st, "expired"))}
            ELSE {SessionEnded(st, ev)}
      [] ev.kind = "Refused" ->
            {By("Expire", RefuseWaiter(st, i)) : i \in {j \in DOMAIN st.entry.queue : st.entry.queue[j].id = ev.id}}
            \cup {SessionEnded(st, ev)}
      [] ev.kind = "Dropped" ->
            (IF SessionEnds(ev) THEN {SessionEnded(st, ev)} ELSE {})
                 \cup {By("Put", PutOn(st, ev.s, 0, TheLeave))}
                 \cup {By("InvAck", InvAckOn(st, ev.s, n)) :
                         n \in {m \in {st.entry.ver[2], Newest(st.entry)} : st.entry.sharers[ev.s] < m}}
      [] OTHER -> {}

(* The lease that became free goes on at the end of the entry, but nobody who asks for it gets ahead of the queue. *)
Asks(ev) == ev.kind \in {"Inv", "Prepared"} \/ (ev.kind = "Granted" /\ ev.id = 0)
Free(e) == e.holder = None /\ e.pending = None
Barred(st, ev) == Asks(ev) /\ Free(st.entry) /\ st.entry.queue # <<>>
Deferred(st, ev) ==
    IF \E i \in 2..Len(Rest) : Rest[i].kind = "Refused" \/ (Rest[i].kind = "Granted" /\ Rest[i].id > 0)
    THEN {By(c.action, [c.st EXCEPT !.entry.queue = st.entry.queue]) :
            c \in Causes([st EXCEPT !.entry.queue = <<>>], ev)}
    ELSE {}
Explanations(st, ev) == IF Barred(st, ev) THEN {} ELSE Causes(st, ev) \cup Deferred(st, ev)

(* Whoever asked is live and is of this incarnation; nothing is answered twice. *)
MayAct(ev) == ev.kind \in {"Shared", "Granted", "Inv", "Prepared"} /\ ev.s # "" => store.live[ev.s]
Once(out) == \A i \in DOMAIN out :
    out[i].kind \in {"Granted", "Refused", "Published"} /\ out[i].id > 0 => <<out[i].s, out[i].id>> \notin store.res
Noted(st, s, id, r) == IF id = 0 THEN st ELSE [st EXCEPT !.res = @ \cup {<<s, id>>}]

AsLogged(st) == Line.until
NoLease == ""
ByThen(st, deadline) == deadline <= st.skew
Same(event, shown) == event.kind = shown.kind /\ \A f \in DOMAIN event : event[f] = shown[f]
Explains(out) == out # <<>> /\ Len(out) <= Len(Rest) /\ \A i \in DOMAIN out : Same(out[i], Rest[i])

(* ------------------------------- the telling ------------------------------ *)
(* How far each run was explained, and which actions the sound ones have. *)
Actions == <<"GetS", "GetM", "Commit", "Put", "InvAck", "Expire", "EndSession", "SetPolicy", "Handoff",
             "Inherit", "Adopted">>
Seen(action) ==
    \A k \in DOMAIN Actions :
        IF R.sound /\ Actions[k] = action /\ TLCGet(k) = 0
        THEN TLCSet(k, 1) /\ PrintT(<<"action", action>>) ELSE TRUE
Told ==
    IF TLCGet(Len(Actions) + run) < at
    THEN TLCSet(Len(Actions) + run, at) /\ PrintT(<<"explained", R.name, at>>) ELSE TRUE

(* --------------------------------- the run -------------------------------- *)
Took(c) ==
    LET n == nth + Len(c.st.out)
        done == n > Len(Line.events)
    IN /\ store' = [Quietly(c.st) EXCEPT !.entry = NoEntry, !.hist = <<>>, !.log = <<>>, !.top = NoVer,
                                         !.reissued = FALSE, !.skew = 0, !.quar = 0]
       /\ others' = [others EXCEPT ![Line.key] = [entry |-> c.st.entry, rev |-> Line.rev, top |-> c.st.top,
                                                   reissued |-> c.st.reissued]]
       /\ nth' = IF done THEN 1 ELSE n
       /\ at' = IF done THEN at + 1 ELSE at
       /\ Seen(c.action) /\ (done => Told)

Take ==
    /\ Line.inc = store.inc
    /\ Line.seq = IF at = 1 THEN 1 ELSE R.log[at - 1].seq + 1
    /\ nth = 1 => Line.rev > others[Line.key].rev
    /\ MayAct(Head(Rest))
    /\ \E st \in Begun(Here) : \E c \in Explanations(Before(st), Head(Rest)) :
        /\ Explains(c.st.out) /\ Once(c.st.out)
        /\ Head(Rest).kind = "Prepared" => c.st.entry.pending.waits = Line.waits
        /\ Took(c)

(* What follows is of a new memory of the store: whoever began before is over. *)
Renewed ==
    /\ nth = 1 /\ Line.inc > store.inc
    /\ store' = [AdoptedAll(store) EXCEPT !.inc = Line.inc, !.quar = 0, !.losses = 0,
                                          !.live = [s \in Session |-> R.born[s] = Line.inc]]
    /\ Seen("Adopted")
    /\ UNCHANGED <<others, at, nth>>

TraceInit ==
    /\ \A k \in 1..(Len(Actions) + Len(Runs)) : TLCSet(k, 0)
    /\ run \in DOMAIN Runs /\ at = 1 /\ nth = 1
    /\ store = [InitStore EXCEPT !.res = {}, !.live = [s \in Session |-> R.born[s] = 1]]
    /\ others = [a \in Artifacts |-> Fresh]
    /\ net = None /\ client = None /\ server = None
TraceNext == at <= Len(R.log) /\ (Take \/ Renewed) /\ UNCHANGED <<run, net, client, server>>
TraceSpec == TraceInit /\ [][TraceNext]_traceVars

(* What must hold besides: tokens are issued once; a queue is only behind somebody. *)
TokensOnce == \A a \in Artifacts : ~others[a].reissued
QueuesBehind == \A a \in Artifacts : LET e == others[a].entry IN
    nth = 1 /\ e.queue # <<>> => e.holder # None \/ e.pending # None
=============================================================================
