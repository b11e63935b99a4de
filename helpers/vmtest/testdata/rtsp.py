"""An RTSP client with libcurl's RTSP and UDP sockets of its own.

rtsp.py play URL PORT    has a stream sent to PORT and PORT+1 and prints what arrives
rtsp.py record URL       sends a stream to a server until it is stopped
"""
import ctypes
import itertools
import re
import socket
import sys

URL, SESSION, STREAM, TRANSPORT, BODY = 10002, 10190, 10191, 10192, 10015
REQUEST, TIMEOUT, TIMEOUT_MS, HEADERS, WRITE = 189, 13, 155, 20079, 20011
OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, TEARDOWN, RECORD = 1, 2, 3, 4, 5, 7, 10
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
        if "body" in options:
            self.set(BODY, options["body"])
        self.set(REQUEST, request)
        status = curl.curl_easy_perform(self.handle)
        if status != 0 or " 200 " not in self.lines[0]:
            sys.exit("request %d: %s: %s" % (request, curl.curl_easy_strerror(status).decode(), self.lines))
        return "".join(self.lines)

    def setup(self, transport):
        """Returns the answer's Transport header."""
        answer = self.do(SETUP, uri=self.url + "/streamid=0", transport=transport)
        return re.search(r"(?im)^transport: *(.*?)\r?$", answer).group(1)


def port(transport):
    return int(re.search("server_port=([0-9]+)", transport).group(1))


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
    client.set(TIMEOUT_MS, 100)  # rtsp-server-perl does not answer this
    client.set(REQUEST, TEARDOWN)
    curl.curl_easy_perform(client.handle)


def record(url):
    client = Client(url)
    client.do(ANNOUNCE, body="v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=test\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:streamid=0\r\n")
    to = port(client.setup("RTP/AVP/UDP;unicast;client_port=7000-7001;mode=record"))
    client.do(RECORD)
    s = bind(socket.AF_INET, 7000)
    s.settimeout(0.05)
    for n in itertools.count():
        for kind in (0, 200):  # RTP with PCMU, RTCP's sender report
            s.sendto(bytes([0x80, kind, n >> 8 & 255, n & 255]) + bytes(24), ("127.0.0.1", to))
        try:
            s.recv(1)
        except OSError:
            pass  # the pace


if sys.argv[1] == "play":
    play(sys.argv[2], int(sys.argv[3]))
else:
    record(sys.argv[2])
