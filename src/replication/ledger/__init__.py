"""The record: audit chain, blocks, certificates, the store, and the independent verifier."""
