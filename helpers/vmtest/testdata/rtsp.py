"""rtsp.py URL PORT: an RTSP client with libcurl's RTSP and UDP sockets of its own.

It has a stream sent to PORT and PORT+1, and prints the answer's transport and where the first
packet to each port came from.
"""
import ctypes
import re
import socket
import sys

URL, STREAM, TRANSPORT = 10002, 10191, 10192
REQUEST, TIMEOUT, TIMEOUT_MS, HEADERS, WRITE = 189, 13, 155, 20079, 20011
OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN = 1, 2, 4, 5, 7
PATIENCE = 20

curl = ctypes.CDLL("libcurl.so.4")
curl.curl_easy_init.restype = ctypes.c_void_p
curl.curl_easy_strerror.restype = ctypes.c_char_p
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)


class Client:
    def __init__(self, url):
        self.handle = ctypes.c_void_p(curl.curl_easy_init())
        self.url = url
        self.lines = []
        self.keep = [CALLBACK(self.header), CALLBACK(lambda data, size, n, user: size * n)]
        self.set(URL, url)
        self.set(TIMEOUT, PATIENCE)
        self.set(HEADERS, self.keep[0])
        self.set(WRITE, self.keep[1])

    def header(self, data, size, n, user):
        self.lines.append(ctypes.string_at(data, size * n).decode())
        return size * n

    def set(self, option, value):
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, int):
            value = ctypes.c_long(value)
        assert curl.curl_easy_setopt(self.handle, ctypes.c_int(option), value) == 0, option

    def do(self, request, **options):
        self.lines = []
        self.set(STREAM, options.get("uri", self.url))
        if "transport" in options:
            self.set(TRANSPORT, options["transport"])
        self.set(REQUEST, request)
        status = curl.curl_easy_perform(self.handle)
        if status != 0 or " 200 " not in self.lines[0]:
            sys.exit("request %d: %s: %s" % (request, curl.curl_easy_strerror(status).decode(), self.lines))
        return "".join(self.lines)

    def setup(self, transport):
        """Returns the answer's Transport header."""
        answer = self.do(SETUP, uri=self.url + "/streamid=0", transport=transport)
        return re.search(r"(?im)^transport: *(.*?)\r?$", answer).group(1)


def bind(family, number):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("", number))
    s.settimeout(PATIENCE)
    return s


def play(url, first):
    client = Client(url)
    family = socket.AF_INET6 if "[" in url else socket.AF_INET
    sockets = [bind(family, first), bind(family, first + 1)]
    client.do(OPTIONS)
    client.do(DESCRIBE)
    print(client.setup("RTP/AVP;unicast;client_port=%d-%d" % (first, first + 1)))
    client.do(PLAY)
    for s in sockets:
        data, source = s.recvfrom(2048)
        print(data[1], source[0], source[1])
    client.set(TIMEOUT_MS, 300)  # rtsp-server-perl does not answer this
    client.set(REQUEST, TEARDOWN)
    curl.curl_easy_perform(client.handle)


play(sys.argv[1], int(sys.argv[2]))
