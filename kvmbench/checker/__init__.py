"""Every interleaving of a small machine: is a policy safe?"""
