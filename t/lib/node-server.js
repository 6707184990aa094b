// A server of Node.js for t/stale/keepalive-node.t:
//
//   node node-server.js MILLISECONDS
//
// prints the port on 127.0.0.1 that it listens at. It closes a connection that is idle for so long; its newer versions leave
// the client a second more, unless they are told not to. "GET /connections" tells how many connections there were; it exits
// with its standard input.

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
