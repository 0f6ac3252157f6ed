"""What happened: the record of a run, and what is made from it for people and other tools."""
