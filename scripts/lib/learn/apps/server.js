// server.js PORT LIMIT KIND: a server of Node.js with this idle limit in ms. It answers, and notes the id of each request in the
// file IDS. KIND "silent": without the header Keep-Alive, which Node.js leaves out when the application sets Connection itself.
const fs = require("fs");
const http = require("http");

const [port, limit, kind] = process.argv.slice(2);
const ids = fs.openSync(process.env.IDS, "a");
const server = http.createServer((request, response) => {
    request.resume();
    request.on("end", () => {
        fs.writeSync(ids, `${request.headers["x-id"] || "-"}\n`);
        if (kind === "silent") {
            response.setHeader("Connection", "keep-alive");
        }
        response.setHeader("Content-Length", "3");
        response.end("ok\n");
    });
});
server.keepAliveTimeout = Number(limit);
server.listen(Number(port), "127.0.0.1");
