// A server of HTTP/2 without TLS for t/streams/real.t: node node-http2-server.js STREAMS
//
// It prints the port on 127.0.0.1 that it listens on, and exits when its standard input ends. A request with a body gets it back;
// /N gets N bytes. STREAMS is its limit of concurrent streams, or 0 for none.
'use strict';

const http2 = require('http2');

const limit = Number(process.argv[2]);
const server = http2.createServer({ settings: limit ? { maxConcurrentStreams: limit } : {} });
server.on('sessionError', () => {});
server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    if (headers[':method'] === 'GET') {
        stream.respond({ ':status': 200 });
        stream.end(Buffer.alloc(Number(headers[':path'].slice(headers[':path'].lastIndexOf('/') + 1)) || 0, 'n'));
        return;
    }
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => {
        const body = Buffer.concat(parts);
        stream.respond({ ':status': 200, 'content-length': body.length });
        stream.end(body);
    });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
