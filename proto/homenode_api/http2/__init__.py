"""HTTP/2 as gRPC uses it, without I/O: bytes in, calls of an `Owner` and bytes out. Both ends share it."""
