"""Fuzzing of everything that reads bytes from outside: messages, files, requests and answers.

A *target* takes bytes and either accepts or refuses them. It may refuse with the documented error of its
decoder and with nothing else; what it accepts must mean the same when it is written and read again, and where
a value has one serialisation, must be that serialisation. Files that prove something (exports, certificates,
evidence) are accepted only if they say what a file of the corpus says: anything else is a forgery. Inputs are
made from a corpus of real objects by edits of bytes, of protobuf messages field by field, and of JSON trees.

One number names one input (`input_of`), in any process, so that a range of seeds is a piece of work that can
be repeated, divided and resumed. Time and memory are bounded too: an input that takes longer than
`runner.MAX_SECONDS` of CPU is a failure, and so is a process that grows.

* `record`: real objects: a small cluster's genesis file, commands, blocks, certificates, messages, journal.
* `certificates`: transport certificates, as texts.
* `corpus`: the valid inputs of each target. `mutation`: what is done to them.
* `targets`: the decoders and what must hold. `runner`: many inputs, failures to files, replays.

What is not here: attacks on running nodes (tests/security, tests/benchmarks), and members that lie within the
protocol (`faults.simulation`).
"""

from __future__ import annotations
