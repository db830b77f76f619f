"""What the page's receiver calls of the package standardwebhooks, which Debian does not
have: verify checks a signature of https://www.standardwebhooks.com and returns the event."""
import base64
import hashlib
import hmac
import json
import time


class Webhook:
    def __init__(self, secret):
        self.key = base64.b64decode(secret.removeprefix("whsec_"))
        if not self.key:
            raise RuntimeError("the secret is empty")

    def verify(self, data, headers):
        id, at = headers["webhook-id"], headers["webhook-timestamp"]
        if abs(time.time() - int(at)) > 300:
            raise ValueError("another time")
        want = hmac.new(self.key, f"{id}.{at}.".encode() + data, hashlib.sha256).digest()
        for signature in headers["webhook-signature"].split(" "):
            version, _, text = signature.partition(",")
            if version == "v1" and hmac.compare_digest(base64.b64decode(text), want):
                return json.loads(data)
        raise ValueError("no signature is right")
