// A server of Node.js for t/stale/keepalive-node.t:
//
//   node node-server.js MILLISECONDS
//
// prints the port on 127.0.0.1 that it listens on. It closes a connection that is idle for this time; newer versions of Node.js
// add a second for the client, unless configured otherwise. "GET /connections" returns the number of connections so far. The server
// exits when its standard input is closed.

const http = require('http');

let connections = 0;
const server = http.createServer((request, response) => {
    response.end(request.url === '/connections' ? `${connections}` : 'ok');
});
server.keepAliveTimeout = Number(process.argv[2]);
server.keepAliveTimeoutBuffer = 0;
server.on('connection', () => { connections += 1; });
server.listen(0, '127.0.0.1', () => { console.log(server.address().port); });
process.stdin.on('end', () => { process.exit(); }).resume();
