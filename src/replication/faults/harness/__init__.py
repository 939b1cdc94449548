"""Drills on real clusters: node processes, broken on purpose under load, and judged from outside.

A drill is a *scenario* (a TOML file): a cluster, a workload, faults, and what has to hold. `run_scenario`
makes the cluster, runs the workload through the public client, imposes each fault and watches whether it took
effect, heals everything, and then lets the checkers look at what clients were told, at every node's exported
record and at every signature that left a node.

* `scenario`, `reading`, `library`: what a drill is, and where the ready ones are.
* `catalogue`, `schedule`: the kinds of faults, and which comes when, drawn from one seed.
* `cluster`, `links`, `proxy`, `namespaces`, `node_with_faults`, `behaviours`: the cluster and the ways to
  break it.
* `process_faults`, `network_faults`, `storage_faults`, `behaviour_faults`: one class for each kind of fault.
* `workload`, `history`, `sampling`: load, and what was seen.
* `checks`: the checkers, which share no code with nodes beyond hashes and signatures.
* `drill`, `outcome`, `report`, `page`: running it all, the verdict, and how people and programs read it.

A run passes only if every fault took effect: otherwise it is NOT RUN. A production node knows nothing of all
this: what has to happen inside a process is done by a wrapper (`node_with_faults`) that changes the server
from outside."""
