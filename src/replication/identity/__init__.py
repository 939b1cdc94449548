"""Who is who, and who said what: keys, statements, members, the genesis file and transport certificates.

Where things live:

* `names`: the alphabet of identifiers.
* `merkle`: RFC 6962 trees and inclusion paths.
* `signbytes`: the bytes that are signed or hashed for each kind of statement.
* `keys`: Ed25519. The one place of the project that signs, verifies, or judges a public key.
* `members`: the member set of an epoch, and the gate (key admission, proof of possession) before it.
* `genesis`: the file that all nodes start from. Its SHA-256 is the cluster's name for itself.
* `private_files`: secrets on disk, 0600 and atomic.
* `roles`: the identity (cluster, role, name) that a transport certificate states.
* `tls`: the certificate authority of a cluster; issuing and judging transport certificates.

The law of sign-bytes: *a signature covers bytes that the verifier has laid out itself, from fields that it
has validated, for a statement that it expects.* Signatures never cover an encoding that came over the wire,
and never protobuf, whose encoding is not unique. Every statement starts with its own tag, the cluster's id
and the epoch, so that none can be passed off as another kind of statement, or as one of another cluster or
epoch. Every variable field carries its length, so that no two lists of fields share their bytes.

Two kinds of keys are kept apart. Ed25519 keys speak for a member, and are bound to it by the genesis file or
an ordered membership change. ECDSA P-256 keys only protect a connection, and are bound to a name and a role
by the cluster's certificate authority. Stealing a transport key never yields a vote.

What is not here: which statements a member may sign when (`ordering`), what a decision certificate must hold
(`ledger`), and the credentials of a running server (`node`).

This module imports nothing, so that a caller pays only for the submodules it names.
"""

from __future__ import annotations
