"""The Homenode directory: MESI state, sharers and leases of shared artifacts, over a store."""
