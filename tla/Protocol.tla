------------------------------ MODULE Protocol ------------------------------
(* Theory of operation.

   One artifact of one slice, its directory record, and the processes ("sessions") that share it. Four variables:

     store    what the directory's store holds. It survives a server crash: the servers keep nothing that counts, so a
              crash is only a lost answer, and losing answers is something that the network below does anyway.
     net      what is under way between a session and the directory.
     client   what the SDK of each session knows: its copy, its floors, its deadlines.
     server   what one server remembers of the store, and may go on judging by (`Replica`).

   Time is discrete and relative: every deadline is a count of ticks that are left, every age a count of ticks passed,
   both capped where nothing can depend on more. So time needs no bound.

   The slice log has two sides. `log` is what delivery makes of it: the entries that remove permissions, numbered.
   Entries that only give permissions (grants, releases) carry a sequence too, but no copy depends on them, so they have
   none here. `out` is what a transition writes into the log, event by event as `protocol/effects.py` names them; it is
   empty in every state that is checked, and is what `Trace` compares with the log of a real run. *)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS
    Session,     \* the sessions
    Readers,     \* those that read, and follow the log
    Writers,     \* those that send effectful requests
    None,        \* "nothing here"
    Level,       \* "lazy" | "strict": the artifact's consistency, at the start
    Features,    \* which requests and faults this configuration has (see Client!Requests, Directory)
    Born,        \* whether the artifact exists at the start
    Term,        \* ticks of a write lease and of a session's strict copies
    Delta,       \* ticks that a lazy copy may be read beyond the last confirmed moment
    MaxAsks,     \* effectful requests of all sessions together
    MaxReads,    \* read replies under way to one session
    MaxLosses    \* how often the store may be lost or replaced, or its clock may jump

VARIABLES store, net, client, server
vars == <<store, net, client, server>>

Has(f) == f \in Features
Changes == Has("policy") \/ Has("prefix")
UsesLazy == Level = "lazy" \/ Changes
UsesStrict == Level = "strict" \/ Changes

(* Steps of an agent for which it may use a copy without hearing from the directory; they are counted up to one more. *)
K == 1
Unknown == IF Has("steps") THEN K + 1 ELSE 0
NoSteps == [s \in Session |-> 0]

Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Range(f) == {f[x] : x \in DOMAIN f}

(* ------------------------------- versions ------------------------------- *)
(* <<incarnation, n>>, ordered lexicographically. As a commit's base, NoVer says "must not exist". *)
NoVer == <<0, 0>>
Lt(v, w) == v[1] < w[1] \/ (v[1] = w[1] /\ v[2] < w[2])
Later(v, w) == IF Lt(v, w) THEN w ELSE v

(* ------------------------------- records -------------------------------- *)
Ids == 1..MaxAsks

NoEntry ==
    [known   |-> FALSE,                       \* whether there is a record; a tombstone is one without content
     ver     |-> NoVer,
     content |-> None,                        \* contents are named by the request that wrote them
     fence   |-> 0,
     holder  |-> None,                        \* [s, lease, fence, left]
     queue   |-> <<>>,                        \* waiting GetMs: [s, id, lease]
     pending |-> None,                        \* a prepared strict commit
     sharers |-> [s \in Session |-> 0],       \* version number given; 0: not a sharer
     level   |-> Level]                       \* its own, or what it has of its prefix

(* What a session may ask. `base` counts unless `any`; `token` None: without a lease; `content` None: a delete. *)
Request == [op: {"GetM", "Commit", "Put", "SetPolicy", "Handoff"}, inc: Nat, token: {None} \cup (Nat \X Nat), lease: Nat,
            base: Nat \X Nat, any: BOOLEAN, keep: BOOLEAN, content: {None} \cup (Session \X Ids),
            level: {"lazy", "strict"}, to: Session]

FirstVer == <<1, 1>>
FirstContent == <<None, 0>>

(* `hist`, `top`, `reissued`, `never`, `oldread` and `cold` are history variables: invariants read them, no action does. Each
   element of `hist` is a version that took effect. *)
InitStore ==
    [inc   |-> 1,
     entry |-> IF Born THEN [NoEntry EXCEPT !.known = TRUE, !.ver = FirstVer, !.content = FirstContent] ELSE NoEntry,
     prefix |-> Level,                         \* what the artifact's prefix says; it may not have taken it over yet
     floor |-> 0,                              \* the slice's floor of version numbers and fences
     log   |-> <<>>,                           \* [ver, to]: copies older than ver are obsolete; routed to `to`
     out   |-> <<>>,
     res   |-> [s \in Session |-> [i \in Ids |-> None]],
     live  |-> [s \in Session |-> TRUE],
     dl    |-> [s \in Session |-> 0],          \* strict: ticks until the session is over, unless it is renewed
     skew  |-> 0,                              \* ticks that the store's clock is ahead of the time it should show
     quar  |-> 0,                              \* ticks of quarantine left
     hist  |-> IF Born THEN <<[ver |-> FirstVer, content |-> FirstContent, by |-> FirstContent, base |-> NoVer,
                               any |-> FALSE, prev |-> NoVer, stale |-> FALSE, inc |-> 1, since |-> 0, lost |-> FALSE,
                               steps |-> NoSteps]>>
              ELSE <<>>,
     top   |-> NoVer, reissued |-> FALSE, oldread |-> FALSE, never |-> {}, cold |-> FALSE, losses |-> 0]

InitNet == [s \in Session |->
    [req   |-> <<>>,       \* every effectful request ever sent: it may arrive late, and again
     age   |-> 0,          \* ticks since the last of them was sent
     steps |-> 0,          \* and steps of its agent
     reads |-> {},         \* read replies under way
     mark  |-> None]]      \* a bookmark under way: [age, seq, steps], since its ping

NewClient(inc) ==
    [inc |-> inc,
     cache |-> None,       \* the version of the copy that is held
     mode |-> Level,       \* the level that the copy was given at
     told |-> 0,           \* the latest sequence of an answer: older answers are thrown away
     heard |-> 0,          \* the latest sequence of an Inv: older answers are not cached
     applied |-> 0,        \* the log is applied without a gap up to here
     acked |-> 0,          \* the version number up to which Invs were obeyed (and acknowledged)
     shown |-> NoVer,      \* the latest version that was shown to the agents: the base of what they write
     back |-> FALSE,       \* history variable: an older version was shown after a newer one
     ask |-> 0,            \* the effectful request that is not resolved
     token |-> None,       \* write lease: [token, lease]
     wleft |-> 0,          \* ticks that the session believes in its write lease
     steps |-> Unknown,    \* steps since the ping of the last accepted bookmark
     got |-> Unknown,      \* steps since the copy was asked for
     fresh |-> Delta + 1,  \* lazy: ticks since the ping of the last accepted bookmark
     left |-> 0]           \* strict: ticks that the copies may still be read

\* Everybody has seen the first version, if there is one, and has kept no copy of it.
InitClient == [s \in Session |-> [NewClient(1) EXCEPT !.shown = IF Born THEN FirstVer ELSE NoVer]]

(* An agent may use a copy for K steps from when it was known to be current: when it was asked for, or when the ping was
   sent whose bookmark came back. *)
StepsOk(c) == Has("steps") => Min(c.steps, c.got) <= K

(* A copy that a cached read would return. *)
Readable(s) ==
    /\ client[s].cache # None
    /\ StepsOk(client[s])
    /\ IF client[s].mode = "lazy" THEN client[s].fresh <= Delta ELSE client[s].left > 0
=============================================================================
