"""What can go wrong around a robot, and what the nodes make of it: `python -m tests.faults` prints the table."""
