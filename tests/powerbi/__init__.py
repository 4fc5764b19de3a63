"""Power BI's project as the tests read it: its model, and its measures over tables."""
