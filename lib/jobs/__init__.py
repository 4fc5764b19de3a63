"""A notebook is a job: finding, reading and checking notebooks; nothing runs here."""
