"""The application of gunicorn: answers, and notes the id of each request in the file IDS."""
import os

ids = os.open(os.environ["IDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def app(environ, start_response):
    environ["wsgi.input"].read()
    os.write(ids, (environ.get("HTTP_X_ID", "-") + "\n").encode())
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
