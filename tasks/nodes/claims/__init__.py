"""Nodes by claim: a NodeClaim is written before any machine is asked for."""
