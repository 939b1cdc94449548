"""Quorum arithmetic of the ordering protocol, in integers.

The commit quorum is not the tally quorum: 2f+1 of n members is only a safe quorum when n = 3f+1. At n = 5 or
6, f is 1 and two sets of 3 need not share an honest member.
"""

from __future__ import annotations

from replication.consensus.rules import max_byzantine_faults

__all__ = ["commit_quorum"]


def commit_quorum(member_count: int) -> int:
    """Members whose signatures make a certificate: floor((n + f) / 2) + 1.

    Two sets of that size overlap in more than f members, hence in an honest one; and n - f honest members are
    always enough to form one. Raises ValueError unless `member_count` is at least 1.
    """
    if member_count < 1:
        raise ValueError(f"a cluster has at least one member, not {member_count}")
    return (member_count + max_byzantine_faults(member_count)) // 2 + 1
