"""The ordering protocol: one Byzantine fault-tolerant replica as a synchronous state machine.

Theory. Members agree on a log of blocks, one height at a time. The coordinator of a view proposes a block;
members check and execute it speculatively and answer PREPARE; a quorum Q of those is a prepare certificate, on
which members lock and answer COMMIT; a quorum of those is the commit certificate, which is final. Q is
floor((n + f) / 2) + 1, so that any two quorums share an honest member (see `quorum`). The family is PBFT
(Castro and Liskov, OSDI 1999: stable leader, two phases) with the star communication of HotStuff-2
(Malkhi and Nayak, 2023).

The driver loop. The replica has no clock, no disk and no network. Each input is a call with the time as an
argument, and returns `Effects`, which the caller carries out in this order:

1. `persist`, each value made durable, in order;
2. `send`, only after all of them are durable;
3. `committed` and `behind`: tell clients, fetch missing blocks.

The next input may be given only after that. This rule is the safety argument: no message leaves before what it
promises is on disk.

Where things are: `quorum` (arithmetic), `blocks`, `statements`, `certificates` (the vocabulary of the log),
`messages` (what members send each other), `effects` (what the caller must do), `application` (the seam to what
is being ordered), `signing` (the only place that signs, and its durable state), `pool` (commands waiting to be
ordered), `replica` (the state machine).

What is not here: voting rules (`replication.consensus`), storage (`replication.ledger`), gRPC
(`replication.node`). Commands are opaque bytes.
"""
