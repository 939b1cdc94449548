"""The gRPC services of a node, one module for each, behind the gate of `node.access`.

A handler reads its request strictly (`requests`), asks the driver, and turns records into messages
(`answers`). It keeps no state that a restart would miss, and raises errors; the gate makes statuses of them.
"""
