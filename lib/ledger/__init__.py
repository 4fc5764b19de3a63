"""How far everything is: heads, offsets, cuts, receipts, and the ledger of ingestion summed up."""
