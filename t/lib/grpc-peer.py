"""A gRPC server and a gRPC client for t/streams/grpc.t, on top of grpcio, without generated code: messages are bytes.

grpc-peer.py server STREAMS        prints the port on 127.0.0.1 that it listens on; STREAMS is its limit of concurrent streams, or 0
grpc-peer.py client PORT STREAMS [CERTIFICATE CASE ...]
                                   prints a line "ok NAME" or "not ok NAME: REASON" for each case, or for these; with a certificate, of
                                   the name "example", over TLS

Both exit when their standard input ends.
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = '/test.Test/'
cancelled = 0
lock = threading.Lock()


def unary(request, context):
    context.set_trailing_metadata((('x-length', str(len(request))),))
    return request[::-1]


def total(requests, context):
    lengths = [len(request) for request in requests]
    return f'{len(lengths)} {sum(lengths)}'.encode()


def many(request, context):
    number, length = map(int, request.split())
    for at in range(number):
        yield bytes([at % 256]) * length


def echo(requests, context):
    for request in requests:
        yield request


def fail(request, context):
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'no: "%"')


def slow(request, context):
    def ended():
        global cancelled
        with lock:
            cancelled += 1

    over = threading.Event()
    context.add_callback(over.set)
    context.add_callback(ended)
    over.wait(20)
    return b'late'


def count(request, context):
    with lock:
        return str(cancelled).encode()


def serve(streams):
    handlers = {
        'Unary': grpc.unary_unary_rpc_method_handler(unary),
        'Total': grpc.stream_unary_rpc_method_handler(total),
        'Many': grpc.unary_stream_rpc_method_handler(many),
        'Echo': grpc.stream_stream_rpc_method_handler(echo),
        'Fail': grpc.unary_unary_rpc_method_handler(fail),
        'Slow': grpc.unary_unary_rpc_method_handler(slow),
        'Count': grpc.unary_unary_rpc_method_handler(count),
    }
    options = [('grpc.so_reuseport', 0)] + ([('grpc.max_concurrent_streams', streams)] if streams else [])
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=100), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('test.Test', handlers),))
    port = server.add_insecure_port('127.0.0.1:0')
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    os._exit(0)


class Client:
    def __init__(self, port, streams, certificate):
        # Others would wait in front of the server.
        self.streams = min(streams or 20, 20)
        self.channel = grpc.insecure_channel(f'127.0.0.1:{port}')
        if certificate:
            with open(certificate, 'rb') as file:
                credentials = grpc.ssl_channel_credentials(file.read())
            options = [('grpc.ssl_target_name_override', 'example')]
            self.channel = grpc.secure_channel(f'127.0.0.1:{port}', credentials, options)
        self.unary = self.channel.unary_unary(SERVICE + 'Unary')
        self.total = self.channel.stream_unary(SERVICE + 'Total')
        self.many = self.channel.unary_stream(SERVICE + 'Many')
        self.echo = self.channel.stream_stream(SERVICE + 'Echo')
        self.fail = self.channel.unary_unary(SERVICE + 'Fail')
        self.slow = self.channel.unary_unary(SERVICE + 'Slow')
        self.count = self.channel.unary_unary(SERVICE + 'Count')

    def small(self):
        assert self.unary(b'abc', timeout=20) == b'cba'

    def empty(self):
        assert self.unary(b'', timeout=20) == b''

    def above_64_kb(self):
        for length in (65_535, 65_536, 100_000, 3_000_000):
            message = os.urandom(length)
            assert self.unary(message, timeout=20) == message[::-1], length

    def trailers(self):
        answer, call = self.unary.with_call(b'abcd', timeout=20)
        assert ('x-length', '4') in [tuple(pair) for pair in call.trailing_metadata()], call.trailing_metadata()
        assert call.code() == grpc.StatusCode.OK

    def client_stream(self):
        assert self.total((b'x' * 10_000 for _ in range(200)), timeout=20) == b'200 2000000'

    def slow_client_stream(self):
        def messages():
            for _ in range(10):
                time.sleep(0.05)
                yield b'x'

        assert self.total(messages(), timeout=20) == b'10 10'

    def server_stream(self):
        got = list(self.many(b'500 10000', timeout=20))
        assert [len(message) for message in got] == [10_000] * 500
        assert all(message[0] == at % 256 for at, message in enumerate(got))

    def bidirectional(self):
        went = threading.Semaphore(1)

        def messages():
            for at in range(100):
                went.acquire()
                yield str(at).encode()

        for at, message in enumerate(self.echo(messages(), timeout=20)):
            assert message == str(at).encode()
            went.release()
        assert at == 99

    def trailers_only(self):
        for _ in range(20):
            try:
                self.fail(b'', timeout=20)
                raise AssertionError('answered')
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
                assert error.details() == 'no: "%"', error

    def unknown_method(self):
        try:
            self.channel.unary_unary(SERVICE + 'Nothing')(b'', timeout=20)
            raise AssertionError('answered')
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

    def deadline(self):
        before = int(self.count(b'', timeout=20))
        begun = time.time()
        try:
            self.slow(b'', timeout=0.3)
            raise AssertionError('answered')
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.time() - begun < 3
        self.await_count(before + 1)

    def cancel(self):
        before = int(self.count(b'', timeout=20))
        calls = [self.slow.future(b'', timeout=30) for _ in range(self.streams)]
        time.sleep(0.5)
        for call in calls:
            call.cancel()
        self.await_count(before + self.streams)
        self.small()

    def await_count(self, wanted):
        for _ in range(100):
            if int(self.count(b'', timeout=20)) >= wanted:
                return
            time.sleep(0.1)
        raise AssertionError('the server does not hear of it')

    def at_once(self):
        calls = [self.unary.future(str(at).encode() * 100, timeout=60) for at in range(500)]
        for at, call in enumerate(calls):
            assert call.result() == (str(at).encode() * 100)[::-1]

    def large_at_once(self):
        messages = [os.urandom(200_000) for _ in range(50)]
        calls = [self.unary.future(message, timeout=60) for message in messages]
        for message, call in zip(messages, calls):
            assert call.result() == message[::-1]

    def of_all_kinds_at_once(self):
        with futures.ThreadPoolExecutor(max_workers=30) as pool:
            kinds = (self.small, self.client_stream, self.server_stream, self.bidirectional, self.trailers)
            for done in [pool.submit(kind) for kind in kinds * 6]:
                done.result()


def ask(port, streams, certificate=None, *only):
    client = Client(port, streams, certificate)
    cases = only or [
        'small', 'empty', 'above_64_kb', 'trailers', 'client_stream', 'slow_client_stream', 'server_stream', 'bidirectional',
        'trailers_only', 'unknown_method', 'deadline', 'cancel', 'at_once', 'large_at_once', 'of_all_kinds_at_once',
    ]
    for case in cases:
        try:
            getattr(client, case)()
            print('ok', case.replace('_', ' '), flush=True)
        except Exception as error:  # pylint: disable=broad-except
            reason = ' '.join(repr(error).split())[:300]
            print('not ok', case.replace('_', ' ') + ':', reason, flush=True)
    os._exit(0)


if __name__ == '__main__':
    if sys.argv[1] == 'server':
        serve(int(sys.argv[2]))
    else:
        ask(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
