"""A gRPC server, and a client that finds it through the control plane: `xds:///<host>`.

Arguments: the port of the server, and the host that the control plane knows it by. Prints what the server answered.
The bootstrap comes in GRPC_XDS_BOOTSTRAP_CONFIG.
"""

import concurrent.futures
import sys

import grpc

METHOD = "/test.Echo/Say"


class Echo(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == METHOD:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: b"echo " + request)
        return None


def main():
    port, host = sys.argv[1:]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Echo(),))
    if not server.add_insecure_port(f"127.0.0.1:{port}"):
        sys.exit(f"port {port} is taken")
    server.start()
    with grpc.insecure_channel(f"xds:///{host}") as channel:
        answer = channel.unary_unary(METHOD)(b"hello", timeout=3, wait_for_ready=True)
    print(answer.decode())
    server.stop(None).wait()


main()
