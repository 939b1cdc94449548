"""The process around one voter: its home, configuration, policy, peers and gRPC services."""
