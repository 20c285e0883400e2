"""`homenode kv bench` and `homenode kv eval`: what reuse of KV costs in quality, and what it saves.

Quality comes from the trained demo model (or a model that a user brings), for random weights make every approximation
look lossless; time and bytes may come from random weights of a real shape. Each row says which.
"""
