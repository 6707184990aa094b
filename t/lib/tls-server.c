/*
 * A TLS server on top of OpenSSL for t/identity/tls-idle.t, which sends unusual records on an idle connection.
 *
 *   tls-server CERTIFICATE KEY WHAT MILLISECONDS
 *
 * prints the port on 127.0.0.1 that it listens on. Each answer names its connection, the number of the request on it, and
 * whether the session was resumed ("r"). MILLISECONDS after each answer it sends WHAT: nothing, ticket (a TLS 1.3 session
 * ticket), update (new keys), or goodbye (a close_notify, while the connection stays open). It exits with its parent.
 */

#include <openssl/ssl.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void
say(SSL *ssl, const char *what)
{
    if (strcmp(what, "ticket") == 0) {
        SSL_new_session_ticket(ssl);
        SSL_do_handshake(ssl);
    } else if (strcmp(what, "update") == 0) {
        SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        SSL_do_handshake(ssl);
    } else if (strcmp(what, "data") == 0) {
        SSL_write(ssl, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nforeign\n", 47);
    } else if (strcmp(what, "goodbye") == 0) {
        SSL_shutdown(ssl);
    }
}

static void
cork(SSL *ssl, int on)
{
    setsockopt(SSL_get_fd(ssl), IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

/* Requests have no body, and arrive one after the other. */
static void
serve(SSL *ssl, int connection, const char *what, int milliseconds)
{
    char request[8192], name[100], body[101], answer[4097];
    int length = 0, number = 0, read, fill;

    while ((read = SSL_read(ssl, request + length, sizeof(request) - 1 - length)) > 0) {
        length += read;
        request[length] = '\0';
        if (strstr(request, "\r\n\r\n") == NULL) {
            continue;
        }
        length = 0;
        snprintf(name, sizeof(name), "connection %d request %d session %s", connection, ++number,
                 SSL_session_reused(ssl) ? "r" : ".");
        snprintf(body, sizeof(body), strncmp(request, "HEAD ", 5) == 0 ? "" : "%s\n", name);
        for (fill = 1;; fill = 4096 - strlen(answer) + 1) {
            snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nX-Name: %s\r\nX-Fill: %0*d\r\nContent-Length: %zu\r\n\r\n%s",
                     name, fill, 0, strlen(name) + 1, body);
            if (milliseconds > 0 || strlen(answer) == 4096) {
                break;
            }
        }
        cork(ssl, milliseconds == 0);
        SSL_write(ssl, answer, strlen(answer));
        usleep(milliseconds * 1000);
        say(ssl, what);
        cork(ssl, 0);
        if (strcmp(what, "goodbye") == 0) {
            pause();
        }
    }
}

int
main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), connection;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    if (argc != 5 || SSL_CTX_use_certificate_file(context, argv[1], SSL_FILETYPE_PEM) != 1
        || SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) != 1
        || bind(listener, (struct sockaddr *) &address, size) != 0 || listen(listener, 50) != 0
        || getsockname(listener, (struct sockaddr *) &address, &size) != 0) {
        return 1;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    for (connection = 1;; connection++) {
        int client = accept(listener, NULL, NULL);

        if (fork() == 0) {
            SSL *ssl = SSL_new(context);

            prctl(PR_SET_PDEATHSIG, SIGKILL);
            SSL_set_fd(ssl, client);
            if (SSL_accept(ssl) == 1) {
                serve(ssl, connection, argv[3], atoi(argv[4]));
            }
            return 0;
        }
        close(client);
    }
}
