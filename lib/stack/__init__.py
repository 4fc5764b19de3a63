"""The local machine: set-up, and the programs of the embedded stack."""
