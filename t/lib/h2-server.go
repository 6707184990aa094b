// A server of HTTP/2 without TLS for t/streams/real.t, on top of Go's x/net.
//
// It prints the port on 127.0.0.1 that it listens on, and exits when its standard input ends. A request with a body gets it back
// while it still comes; /N gets N bytes.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

func answer(to http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodGet {
		io.Copy(to, request.Body)
		return
	}
	length, _ := strconv.Atoi(request.URL.Path[strings.LastIndex(request.URL.Path, "/")+1:])
	to.Write(bytes.Repeat([]byte("g"), length))
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	handler := h2c.NewHandler(http.HandlerFunc(answer), &http2.Server{MaxConcurrentStreams: 50})
	go http.Serve(listener, handler)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	io.Copy(io.Discard, os.Stdin)
}
