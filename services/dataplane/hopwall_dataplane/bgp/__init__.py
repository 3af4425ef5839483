"""BGP by BIRD 2: what the host's routing daemon is to do, and what it says.

One daemon speaks both families. The agent renders its configuration and asks it questions over its control
socket; it never starts, stops or restarts it, so a restart of the agent is nothing to the network.
"""
