"""Executors in drafted records: changes that let them in and out, and their keys."""

from __future__ import annotations

from tests.support.epoch_factory import EpochFactory
from tests.support.record_factory import Json

from replication.identity.members import prove_possession

__all__ = ["added_executor", "new_executor"]


def new_executor(factory: EpochFactory, name: str, *, prover: str = "") -> Json:
    """The description of an executor to be; the factory signs as it under its name from now on."""
    key = factory._new_key(name)
    factory.keys[name] = key
    proof = prove_possession(factory._new_key(prover or name), name, factory.genesis.nonce)
    return {"id": name, "public_key": key.public_key.hex(), "possession": proof.hex()}


def added_executor(factory: EpochFactory, name: str = "fence-1") -> Json:
    """Have an executor approved and let in; its description."""
    executor = new_executor(factory, name)
    factory.change({"change": "add-executor", "executor": executor})
    return executor
