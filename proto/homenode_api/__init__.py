"""What both ends of Homenode share: the wire contract (`v1`) and the patch codec (`patch`).

Importing this package loads neither protobuf nor grpc; `homenode_api.v1` does.
"""
