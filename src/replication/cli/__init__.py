"""`acp`: the command line of a cluster, one module a verb (or a small family of verbs).

* `main`: the application, and the one place that turns errors into messages and exit codes.
* `options`, `output`: shared options; tables for people and JSON for programs.
* `provision`, `processes`: making a cluster's files, and running its nodes on this machine.

Data goes to stdout, everything else to stderr. Modules import what is heavy (gRPC, cryptography, rich) inside
their functions, so that `acp --help` and shell completion stay quick."""

from __future__ import annotations
