"""A whole host, simulated: run queues, timeslices and tasks under a policy."""
