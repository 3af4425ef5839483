"""Address management: which address of a pool is whose, in blocks per host."""
