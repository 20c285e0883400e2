------------------- MODULE publish_without_sequence -------------------
(* Publishing takes no sequence: a read of the prepared state looks as new as an answer after the publish. *)
EXTENDS Homenode

PublishNotLogged(st) == st
=======================================================================
