--------------------------------- MODULE Lazy --------------------------------
(* Theory of operation.

   A lazy copy may be read while the ping of the last accepted bookmark is at most Delta old, by the session's clock.
   A bookmark names the slice head at a moment after that ping; it counts only when the log is applied up to there.
   Taking the head at the very moment of the ping is the worst case. Only live sessions get bookmarks: others are no
   longer routed to.

   The commit that reads the head for a bookmark renews the session's deadline too: `Strict` says what that is for. *)
EXTENDS Net


(* What a renewal does to a wait-set: nothing. *)
AfterRenewal(p, s) == p

(* A session lives longer than its copies may be read. *)
Living == IF UsesLazy THEN Max(Term, Delta + 1) ELSE Term
Bookmark(s) ==
    /\ s \in Readers /\ Attached(s)
    /\ store' = IF UsesStrict
                THEN [store EXCEPT !.dl[s] = Living, !.entry.pending = AfterRenewal(@, s)] ELSE store
    /\ net' = [net EXCEPT ![s].mark = [age |-> 0, seq |-> Len(store.log), steps |-> 0]]
    /\ UNCHANGED client

BookmarkOk(s) == client[s].applied >= net[s].mark.seq

(* Ticks since version v was overtaken; 0 if it was not. What the store has lost overtakes nothing: whoever follows
   the new incarnation reads what is there, and was told that it is another one. *)
StaleFor(v) ==
    LET newer == {i \in DOMAIN store.hist : Lt(v, store.hist[i].ver) /\ ~store.hist[i].lost}
    IN IF newer = {} THEN 0 ELSE LET first == CHOOSE i \in newer : \A j \in newer : i <= j IN store.hist[first].since

(* ---------------------------------- steps --------------------------------- *)
(* An agent's step. It counts for the copy that its session holds, and for all that is under way to it, from the moment
   that it was asked for. *)
Another(n) == Min(n + 1, K + 1)
Step(s) ==
    /\ Has("steps") /\ s \in Readers
    /\ client' = [client EXCEPT ![s].steps = Another(@), ![s].got = Another(@)]
    /\ net' = [net EXCEPT ![s].steps = Another(@),
                          ![s].reads = {[r EXCEPT !.steps = Another(@)] : r \in @},
                          ![s].mark = IF @ = None THEN None ELSE [@ EXCEPT !.steps = Another(@)]]
    /\ store' = [store EXCEPT !.hist = [i \in DOMAIN @ |-> [@[i] EXCEPT !.steps[s] = Another(@)]]]

(* Steps that the session's agent has taken since version v was overtaken; 0 if it was not. *)
StepsBehind(s, v) ==
    LET newer == {i \in DOMAIN store.hist : Lt(v, store.hist[i].ver) /\ ~store.hist[i].lost}
    IN IF newer = {} THEN 0 ELSE LET first == CHOOSE i \in newer : \A j \in newer : i <= j IN store.hist[first].steps[s]

StepAge == Has("steps") => \A s \in Session : Readable(s) => StepsBehind(s, client[s].cache) <= K

LazyAge == UsesLazy => \A s \in Session : Readable(s) => StaleFor(client[s].cache) <= Delta
=============================================================================
