"""Faults on purpose: the deterministic simulator, its adversaries and checkers, and the seeded bugs.

`simulation` drives the very same replicas as the node does, in one thread, under a clock, a network and
disks of its own; one seed draws everything. `seeded_bugs` removes one guard of the ordering protocol at a
time, to show that the checkers can fail.
"""
