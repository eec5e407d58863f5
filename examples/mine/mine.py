# mine.py
from kvmbench import Workload

WORKLOADS = [Workload("rdmsr"), Workload("pair", "one of each", ("cpuid", "inl_from_qemu"))]
