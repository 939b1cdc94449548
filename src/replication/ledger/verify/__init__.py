"""The offline verifier: does this file prove what it says, given nothing but the genesis file?

Two kinds of files are verified: an exported record (`verify_export`), and a decision certificate
(`verify_certificate`). Either answers with a report, or raises `VerificationError`, which says where the file
breaks. Evidence against a member can also be verified by itself (`verify_evidence`).

It is written to judge the nodes, so it shares no code with them beyond hashing, canonical JSON and signature
primitives: it has its own tally, its own quorums, and its own idea of what may and must happen to a proposal.

* `reading`: strict JSON. A text is accepted only as the canonical form of what it means.
* `records`: block headers and audit entries, hashes recomputed.
* `signatures`, `commits`, `events`: who signed what: ballots, proposals, receipts, commit certificates.
* `blame`, `epochs`: evidence, new coordinators, changes of members, and what their entries look like.
* `tally`, `proposals`: the decision, recomputed from votes.
* `electorate`: who the members are, and who of them is proven faulty.
* `lifecycle`: which event may come when, and which must.
* `succession`, `inclusion`: how a certificate leads to the members of a later epoch.
* `export`, `certificate`, `evidence`: the ways through.

What is not here: opening files and printing reports (`cli`), making files (`ledger`), and judging whether a
record is the *latest*: a shorter, whole record verifies too. Compare its head with one from elsewhere.
"""

from __future__ import annotations

from .certificate import CERTIFICATE_FORMAT, verify_certificate
from .errors import VerificationError
from .evidence import verify_evidence
from .export import EXPORT_FORMAT, Progress, verify_export
from .reading import MAX_CERTIFICATE_BYTES, MAX_LINE_BYTES, read_lines
from .reports import CertificateReport, ExportReport

__all__ = [
    "CERTIFICATE_FORMAT",
    "EXPORT_FORMAT",
    "MAX_CERTIFICATE_BYTES",
    "MAX_LINE_BYTES",
    "CertificateReport",
    "ExportReport",
    "Progress",
    "VerificationError",
    "read_lines",
    "verify_certificate",
    "verify_evidence",
    "verify_export",
]
