"""Many points: a design of policies, costs, workloads and hosts, computed by many processes."""
