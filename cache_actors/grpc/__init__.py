"""The front for Bazel's Remote Execution API v2: its cache part, by gRPC.

nginx ends the clients' HTTP/2 and passes each call on as an HTTP/1.1 request whose body is
length-prefixed messages; the status goes back in the trailers. So calls use the connections and the
requests of `http/`, and the services behind it.
"""
