"""The KV tier: attention keys and values of artifact versions, kept, moved and reused across agents.

A process of its own, a client of the directory. Importing this package loads no tensor library; `ident`, `provenance`,
`ledger`, `recency`, `costs`, `prefix` and `errors` need none, the other modules need the extra `kv`.

Words and shapes. L layers, Hkv key/value heads, d dimensions a head, T tokens. A *KV* is one tensor [L, 2, T, Hkv, d],
keys at index 0 of the second dimension. A *block* is 32 tokens. *Canonical* is a segment whose first token is at
position 0.

Sources: KVCOMM (arXiv 2510.12872), TokenDance (arXiv 2604.03143).
"""
