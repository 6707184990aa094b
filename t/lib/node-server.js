// A server of Node.js for t/stale/keepalive-node.t and t/lib/Keepalive/Servers.pm:
//
//   node node-server.js MILLISECONDS [HOST] [silent]
//
// prints the port on HOST (127.0.0.1) that it listens on. It closes a connection that is idle for this time; newer versions of Node.js
// add a second for the client, unless configured otherwise. With "silent" it does not announce this time: Node.js leaves the header
// Keep-Alive out when the application sets Connection itself. "GET /connections" returns the number of connections so far. The
// argument "id" of each request is noted in the file IDS. The server exits when its standard input is closed.

const fs = require('fs');
const http = require('http');

const [milliseconds, host, mode] = process.argv.slice(2);
const ids = process.env.IDS && fs.openSync(process.env.IDS, 'a');
let connections = 0;
const server = http.createServer((request, response) => {
    const [, id] = /[?&]id=([\w.]+)/.exec(request.url) || [];
    if (ids && id) {
        fs.writeSync(ids, `${id}\n`);
    }
    if (mode === 'silent') {
        response.setHeader('Connection', 'keep-alive');
    }
    response.end(request.url === '/connections' ? `${connections}` : 'ok');
});
server.keepAliveTimeout = Number(milliseconds);
server.keepAliveTimeoutBuffer = 0;
server.on('connection', () => { connections += 1; });
server.listen(0, host || '127.0.0.1', () => { console.log(server.address().port); });
process.stdin.on('end', () => { process.exit(); }).resume();
