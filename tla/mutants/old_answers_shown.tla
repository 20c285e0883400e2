---------------------- MODULE old_answers_shown ----------------------
(* A read reply is shown although a later answer, such as the session's own commit, was given before. *)
EXTENDS Homenode

ShowAlways(c, asof) == TRUE
======================================================================
