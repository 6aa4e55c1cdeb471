"""Machines that nobody needs: found by what the ledger and the world disagree on."""
