"""How far ingestion and loads have come: heads, offsets, cuts, receipts, and sums of the ledger."""
