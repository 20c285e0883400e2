------------------------------- MODULE Client --------------------------------
(* Theory of operation.

   The SDK of one session. It holds at most one copy, and may read it only while the level's own condition holds
   (`Lazy`, `Strict`). What it may put into its cache is ruled by sequences of the slice log:

     - every answer carries the sequence as of which it was executed; a stored answer keeps the one it had;
     - an Inv and every answer raise the artifact's floor (`heard`, `told`) to their sequence; an answer below is not
       cached;
     - a request after which the directory does not wait for this session's copy any more (giving it up; a strict
       Commit, whose wait-set leaves out its committer) withdraws the copy when it is sent, and nothing is cached until
       its outcome is known.

   What an agent is *shown* is another matter: an answer older than a known Inv was executed after the read was sent,
   so it may be shown, though not cached; while a strict commit is prepared all answers are of that kind. But one
   older than another answer, of the session's own commits and leases too, would show versions going back; it is
   thrown away and the read repeated. *)
EXTENDS Replica

TotalAsks == LET n[S \in SUBSET Session] ==
                    IF S = {} THEN 0 ELSE LET s == CHOOSE x \in S : TRUE IN Len(net[s].req) + n[S \ {s}]
             IN n[Session]

Gone(c) == [c EXCEPT !.cache = None, !.mode = Level]

(* -------------------------------- requests -------------------------------- *)
Blank(s) == [op |-> "GetM", inc |-> client[s].inc, token |-> None, lease |-> 0, base |-> NoVer, any |-> FALSE,
             keep |-> FALSE, content |-> None, level |-> Level, to |-> s]

Commits(s, token, lease) ==
    {[Blank(s) EXCEPT !.op = "Commit", !.token = token, !.lease = lease, !.base = b, !.any = a, !.keep = k,
                      !.content = c] :
        b \in {client[s].shown} \cup (IF Has("delete") \/ ~Born THEN {NoVer} ELSE {}),
        a \in IF Has("any") THEN BOOLEAN ELSE {FALSE},
        k \in IF Has("keep") /\ token # None THEN BOOLEAN ELSE {FALSE},
        c \in {<<s, Len(net[s].req) + 1>>} \cup (IF Has("delete") THEN {None} ELSE {})}

(* What exists is deleted, and made again by whoever takes it for deleted. *)
Remakes(s) ==
    LET r == [Blank(s) EXCEPT !.op = "Commit"]
    IN IF TotalAsks = 0 THEN {[r EXCEPT !.base = client[s].shown]} ELSE {[r EXCEPT !.content = <<s, Len(net[s].req) + 1>>]}

Requests(s) ==
    LET t == client[s].token
    IN (IF Has("lease") /\ t = None THEN {Blank(s)} ELSE {})
       \cup (IF Has("lease") /\ t # None
             THEN Commits(s, t.token, t.lease)
                 \cup {[Blank(s) EXCEPT !.op = "Put", !.token = t.token, !.lease = t.lease]}
                 \cup (IF Has("handoff")
                       THEN {[Blank(s) EXCEPT !.op = "Handoff", !.token = t.token, !.lease = t.lease, !.to = o] :
                               o \in Session \ {s}}
                       ELSE {})
             ELSE {})
       \cup (IF Has("cas") THEN Commits(s, None, 0) ELSE {})
       \cup (IF Has("remake") THEN Remakes(s) ELSE {})
       \cup (IF Has("policy") THEN {[Blank(s) EXCEPT !.op = "SetPolicy", !.level = l] : l \in {"lazy", "strict"}} ELSE {})
       \cup (IF Has("put") /\ (client[s].cache # None \/ net[s].reads # {})
             THEN {[Blank(s) EXCEPT !.op = "Put"]} ELSE {})

(* Whether the directory does not wait for this session's copy, of that level, after request `r`. *)
Leaves(r, level) == (r.op = "Commit" /\ level = "strict") \/ (r.op = "Put" /\ r.token = None)
EndsLease(r) == r.token # None /\ ~r.keep
Withdraw(c, r) == IF Leaves(r, c.mode) THEN Gone(c) ELSE c

Ask(s) ==
    /\ s \in Writers /\ client[s].ask = 0 /\ TotalAsks < MaxAsks
    /\ \E r \in Requests(s) :
        /\ net' = [net EXCEPT ![s].req = Append(@, r), ![s].age = 0, ![s].steps = 0]
        /\ client' = [client EXCEPT ![s] = [Withdraw(client[s], r) EXCEPT !.ask = Len(net[s].req) + 1,
                                    !.token = IF EndsLease(r) THEN None ELSE @,
                                    !.wleft = IF EndsLease(r) THEN 0 ELSE @]]
    /\ UNCHANGED store

(* ------------------------------ fill and floor ---------------------------- *)
Leaving(s, level) == client[s].ask # 0 /\ Leaves(net[s].req[client[s].ask], level)
FillOk(c, asof) == asof >= Max(c.told, c.heard)
ShowOk(c, asof) == asof >= c.told
OwnFloor(c, asof) == Max(c.told, asof)
Drop(c, ver) == IF c.cache # None /\ Lt(c.cache, ver) THEN Gone(c) ELSE c
Fill(c, r, steps) == [c EXCEPT !.cache = r.ver, !.mode = r.level, !.got = steps]

(* Any answer that names a version: the floor rises and an older copy goes. *)
Learn(c, ver, asof) == [Drop(c, ver) EXCEPT !.told = OwnFloor(c, asof)]

(* The sequence that an answer shows. *)
AsOf(r) == r.asof

(* A lease counts from the sending of its request. *)
LeaseLeft(age) == Term - Min(Term, age)

(* The outcome of an effectful request, at any time after it is stored. *)
Reply(s) ==
    LET c == client[s]
        r == store.res[s][c.ask]
        q == net[s].req[c.ask]
        c1 == Learn(c, r.ver, AsOf(r))
        mine == q.op \in {"Commit", "GetM"} /\ r.ok /\ r.cacheable /\ s \in Readers /\ FillOk(c, AsOf(r))
        lease == IF q.op = "GetM" THEN c.ask ELSE q.lease
    IN /\ c.ask # 0 /\ c.inc = store.inc /\ r # None
       /\ client' = [client EXCEPT ![s] =
            [IF mine THEN Fill(c1, r, net[s].steps) ELSE c1 EXCEPT !.ask = 0,
                       !.shown = IF q.op # "Put" THEN Later(@, r.ver) ELSE @,
                       !.token = IF r.ok /\ r.token # None THEN [token |-> r.token, lease |-> lease]
                                 ELSE IF q.token # None THEN None ELSE @,
                       !.wleft = IF q.op = "GetM" /\ r.ok THEN LeaseLeft(net[s].age)
                                 ELSE IF q.token # None /\ ~(r.ok /\ q.keep) THEN 0 ELSE @]]
       /\ UNCHANGED <<store, net>>

(* A read reply, at any time after its execution. One older than another answer is thrown away (and the read
   repeated). *)
ReadReply(s) ==
    \E r \in net[s].reads :
        LET c == client[s]
            fill == r.cacheable /\ ~Leaving(s, r.level) /\ FillOk(c, r.asof)
            c1 == Learn(c, r.ver, r.asof)
        IN /\ net' = [net EXCEPT ![s].reads = @ \ {r}]
           /\ client' = [client EXCEPT ![s] =
                IF ~ShowOk(c, r.asof) THEN c
                ELSE IF ~r.found THEN Gone(c1)
                ELSE [IF fill THEN Fill(c1, r, r.steps) ELSE c1 EXCEPT !.shown = Later(@, r.ver),
                                                             !.back = @ \/ Lt(r.ver, c.shown)]]
           /\ UNCHANGED store

(* A session that cannot go on closes, and asks what became of its request. What is neither answered nor under way
   will never run, because the session is over. *)
ToldNever(st, s, id) == ~Stored(st, s, id) /\ ~Underway(st, s, id)
Resolve(s) ==
    LET c == client[s]
        over == EndSessionOn(Over(store, s), s, "released")
    IN /\ Has("resolve") /\ c.ask # 0 /\ Attached(s)
       /\ store' = Quietly([over EXCEPT !.never = IF ToldNever(over, s, c.ask) THEN @ \cup {<<s, c.ask>>} ELSE @])
       /\ client' = [client EXCEPT ![s] = [Gone(c) EXCEPT !.token = None, !.wleft = 0]]
       /\ UNCHANGED net

(* ------------------------------ new incarnation --------------------------- *)
(* Permissions, floors and what was shown belong to one incarnation; open requests end as "unknown". The session that
   is opened then is another one: requests carry the incarnation of theirs. (It has the name of the old one here, so it
   is opened when nothing of that is left.) *)
Renewed(c) == NewClient(store.inc)
SeeIncarnation(s) ==
    /\ client[s].inc < store.inc /\ ~Remains(store.entry, s)
    /\ client' = [client EXCEPT ![s] = Renewed(client[s])]
    /\ net' = [net EXCEPT ![s].reads = {}, ![s].mark = None]
    /\ store' = [store EXCEPT !.live[s] = TRUE, !.dl[s] = 0]
=============================================================================
