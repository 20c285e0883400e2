-------------------- MODULE steps_not_counted --------------------
(* The steps of an agent are not counted: only time bounds how long it uses a copy whose Inv was lost. *)
EXTENDS Homenode

StepsUncounted(c) == TRUE
==================================================================
