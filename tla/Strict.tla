-------------------------------- MODULE Strict -------------------------------
(* Theory of operation.

   A strict copy may be read until the session's deadline for this slice, which bookmarks extend: the directory renews
   the session's record when it answers a ping, and the session counts a term from its sending; renewing at that very
   moment is the worst case.

   Quiesce relies on two things. A prepared commit waits a term at most (Entry!Frozen), whatever is renewed meanwhile.
   And a renewal that was executed as of sequence x extends the session's deadline only after the log is applied to x:
   so whoever extends it beyond that term has obeyed the Inv of that prepare. *)
EXTENDS Lazy

ExtendOk(s) == client[s].applied >= net[s].mark.seq
StepsOf(mark) == mark.steps  \* since its ping
Window(age) == Term - Min(Term, age)

ApplyBookmark(s) ==
    /\ net[s].mark # None
    /\ LET fresh == UsesLazy /\ BookmarkOk(s)
           extend == UsesStrict /\ ExtendOk(s)
           age == net[s].mark.age
       IN /\ fresh \/ extend
          /\ client' = [client EXCEPT ![s].fresh = IF fresh THEN Min(@, age) ELSE @,
                                      ![s].steps = IF fresh THEN Min(@, StepsOf(net[s].mark)) ELSE @,
                                      ![s].left = IF extend THEN Max(@, Window(age)) ELSE @]
    /\ net' = [net EXCEPT ![s].mark = None]
    /\ UNCHANGED store

(* Within an incarnation no readable copy differs from the last published version; no publish of a later incarnation
   happens while a copy of an earlier one can be read. *)
StrictCopies ==
    \A s \in Session :
        Readable(s) /\ client[s].inc = store.inc /\ (client[s].mode = "strict" \/ Strict(store.entry))
            => client[s].cache = store.entry.ver
OldCopiesDead ==
    \A s \in Session :
        Readable(s) /\ client[s].mode = "strict" => \A i \in DOMAIN store.hist : store.hist[i].inc <= client[s].inc

(* A read that goes to the directory shows what is published at that moment. *)
TrueReads == ~store.oldread
=============================================================================
