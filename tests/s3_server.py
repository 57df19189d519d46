"""An S3 server of this process that can be away, refuse, or lose its answers."""

import threading

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ANSWERS = {"AccessDenied": "403 Forbidden", "ExpiredToken": "400 Bad Request", "SlowDown": "503 Slow Down"}


class Quiet(WSGIRequestHandler):
    """Says nothing of its requests."""

    def log(self, *_):
        pass


class S3:
    """`with S3() as server`; `settings` lead to it."""

    def __init__(self):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.answer = ""
        """In place of what it would have answered."""
        self.loses = 0
        """Of how many writes the answer is lost, though they are done."""
        self.requests = []
        self.server = None
        self.port = 0

    def __enter__(self):
        self.come()
        self.settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "sekret"}
        self.settings |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=self.settings["AWS_ENDPOINT_URL"], **keys).create_bucket(Bucket="flaky")
        return self

    def __exit__(self, *_):
        if self.server is not None:
            self.go()

    def come(self):
        """Be there, at the same address as before."""
        self.server = make_server("127.0.0.1", self.port, self._answered, threaded=True, request_handler=Quiet)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def go(self):
        """Be away: connections are refused."""
        self.server.shutdown()
        self.server.server_close()
        self.server = None

    def _answered(self, environment, start):
        self.requests.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
        code = self.answer
        if environment["REQUEST_METHOD"] == "PUT" and self.loses:
            self.loses -= 1
            list(self.app(environment, lambda *_: None))
            code, environment["CONTENT_LENGTH"] = "SlowDown", "0"
        if not code:
            return self.app(environment, start)
        if length := int(environment.get("CONTENT_LENGTH") or 0):
            environment["wsgi.input"].read(length)
        body = f"<Error><Code>{code}</Code><Message>{code}, it said</Message></Error>".encode()
        start(ANSWERS[code], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [b"" if environment["REQUEST_METHOD"] == "HEAD" else body]
