"""Deterministic simulation: replicas under a clock, network and disks that one seed controls.

A run has two phases, as in the simulators of FoundationDB and TigerBeetle: first faults, while `checkers`
watch that nothing that must always hold is broken; then a quorum of correct members is healed and must make
progress. `scenario` draws everything from a seed; `world` runs it; `adversary` has the faulty members;
`twins` enumerates small scenarios exhaustively.
"""
