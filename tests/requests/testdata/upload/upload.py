"""Python's http.client and urllib: upload.py <client|urllib> <url> <sized|chunked> <bytes>..."""
import http.client
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

library, url, framing = sys.argv[1:4]
unverified = ssl._create_unverified_context()


def pieces(body):
    for at in range(0, len(body), 65536):
        yield body[at:at + 65536]


def with_client(body):
    u = urllib.parse.urlsplit(url)
    if u.scheme == "https":
        c = http.client.HTTPSConnection(u.netloc, context=unverified)
    else:
        c = http.client.HTTPConnection(u.netloc)
    c.request("POST", u.path, body if framing == "sized" else pieces(body),
              {"Authorization": "Bearer bad"}, encode_chunked=framing == "chunked")
    r = c.getresponse()
    r.read()
    return r.status


def with_urllib(body):
    headers = {"Authorization": "Bearer bad"}
    r = urllib.request.Request(url, body if framing == "sized" else pieces(body), headers, method="POST")
    try:
        with urllib.request.urlopen(r, context=unverified if url.startswith("https") else None) as a:
            return a.status
    except urllib.error.HTTPError as e:
        e.read()
        return e.code


for size in sys.argv[4:]:
    try:
        print(size, (with_client if library == "client" else with_urllib)(b"x" * int(size)))
    except Exception as e:
        print(size, "error", type(e).__name__, e)
