"""gRPC's server over our own HTTP/2 end: connections, calls, and the methods that generated code registers."""
