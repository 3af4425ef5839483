"""The nodes of the graph: one file, one fact each."""
