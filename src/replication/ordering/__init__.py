"""The ordering protocol: one Byzantine fault-tolerant replica as a synchronous state machine.

Theory. Members agree on a log of blocks, one height at a time. The coordinator of a view proposes a block;
members check and execute it speculatively and answer PREPARE; a quorum Q of those is a prepare certificate,
on which members lock and answer COMMIT; a quorum of those is the commit certificate, which is final. Q is
floor((n + f) / 2) + 1, so that any two quorums share an honest member (see `quorum`). The family is PBFT
(Castro and Liskov, OSDI 1999: stable leader, two phases), with the star communication of HotStuff-2 (Malkhi
and Nayak, 2023) and the timeout certificates of Jolteon (Gelashvili and others, 2022).

Changing the coordinator. A member that has reason to suspect the coordinator complains; f + 1 complaints
make members give up the view, and a quorum of their timeouts is a timeout certificate. It moves everyone to
the next view, and it is the *floor* under that view: only above the highest committed height in it, and at
the next height only the block of the highest prepare certificate in it. There is no rule by which a member
refuses because its own lock is higher: the certificate decides. (Such a veto is a classic cause of
livelock.)

Why it is safe. Two quorums of prepares at one position share an honest member, who prepares once, so there
is one prepare certificate for a (view, height) at most. If a block was committed at (v, h), a quorum locked
on it before it gave up view v; every timeout certificate of a view from v on holds a report of one of them;
so its floor is that block, or a higher one. By induction nothing else is prepared at h in any later view.

The driver loop. The replica has no clock, no disk and no network. Each input is a call with the time as an
argument, and returns `Effects`, which the caller carries out in this order:

1. `persist`, each value made durable, in order;
2. `send`, only after all of them are durable;
3. `committed`, `behind` and `seen`: tell clients, fetch missing blocks, ask the voter.

No message may leave before what it promises is on disk: this rule is the safety argument. A driver may
gather the effects of several inputs and make them durable together, up to the first block that is to be
applied.

Where things are: `quorum` (arithmetic), `blocks`, `statements`, `certificates`, `timeouts` (the vocabulary
of the log), `messages` (what members send each other), `effects` (what the caller must do), `application`
(the seam to what is being ordered), `signing` (the only place that signs, and its durable state), `pool`
(commands waiting to be ordered), `blame` (who contradicted itself), `pacemaker` (patience). The state
machine itself stands in four modules, each on the one before: `core`, `normal_case`, `view_change`,
`replica` (the inputs).

What is not here: voting rules (`replication.consensus`), storage (`replication.ledger`), gRPC
(`replication.node`). Commands are opaque bytes.
"""
