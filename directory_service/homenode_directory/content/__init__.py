"""Contents of versions: stored as short chains of patches with snapshots, verified before they are kept.

`chains` and `retention` decide and are pure; `encoding` works on bytes; `service.ContentStore` puts them over a store.
"""
