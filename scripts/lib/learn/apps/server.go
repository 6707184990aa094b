// server PORT LIMIT: a server of Go's net/http with this idle limit. It answers, and notes the id of each request in the file IDS.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	limit, err := time.ParseDuration(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	ids, err := os.OpenFile(os.Getenv("IDS"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintln(ids, r.Header.Get("X-Id"))
		io.WriteString(w, "ok\n")
	}
	server := http.Server{Addr: "127.0.0.1:" + os.Args[1], IdleTimeout: limit, Handler: http.HandlerFunc(handler)}
	log.Fatal(server.ListenAndServe())
}
