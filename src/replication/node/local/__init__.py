"""Nodes seen from outside: a cluster's files (`provision`), and node processes on this machine (`processes`).

For commands, drills and tests. Nothing that runs inside a node imports it.
"""
