"""What `search_policies.py` is made of: searches in virtual time, and their figures."""
