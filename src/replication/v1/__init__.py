"""Generated messages and service stubs of the protobuf package `replication.v1` (`make proto`). Do not edit."""
