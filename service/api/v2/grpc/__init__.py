"""The Open Inference Protocol over gRPC, on a port of its own (``FCN_GRPC_PORT``). Imported only where that is set."""
