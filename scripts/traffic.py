#!/usr/bin/env python3
"""Both ends of real TCP, UDP and SCTP traffic for the demo.

usage: traffic.py server ADDRESS
       traffic.py client ADDRESS

The server listens on TCP port 80, UDP port 53 and SCTP port 5000 and prints
"ready". The client opens one connection of each kind and prints "ready" when
all have been answered. It keeps them open, sends a message on the TCP
connection for each line that it reads, and prints the answer. Both end at the
end of their standard input.

On a kernel with SCTP they use its sockets; otherwise a raw socket makes the
four-way handshake, which is enough for connection tracking.
"""

import socket
import struct
import sys
import threading

TCP_PORT, UDP_PORT, SCTP_PORT = 80, 53, 5000
TIMEOUT = 10
INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK = 1, 2, 10, 11


def crc32c(data):
    """The checksum of SCTP, RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_packet(source, destination, tag, kind, body=b""):
    """One chunk in a packet, RFC 9260 section 3."""
    chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body
    head = struct.pack("!HHI", source, destination, tag)
    crc = crc32c(head + bytes(4) + chunk)
    return head + struct.pack("<I", crc) + chunk


def sctp_init(tag):
    """An INIT's or INIT ACK's fixed part: tag, window, streams, first TSN."""
    return struct.pack("!IIHHI", tag, 65536, 1, 1, 1)


def sctp_parse(datagram):
    """Ports, tag, chunk type and chunk value of a raw IPv4 datagram."""
    packet = datagram[4 * (datagram[0] & 15):]
    source, destination, tag = struct.unpack("!HHI", packet[:8])
    length = struct.unpack("!H", packet[14:16])[0]
    return source, destination, tag, packet[12], packet[16:12 + length]


def has_sctp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
        return True
    except OSError:
        return False


def echo_stream(listener):
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=echo_one, args=(peer,), daemon=True).start()


def echo_one(peer):
    while data := peer.recv(4096):
        peer.sendall(data)


def echo_datagrams(sock):
    while True:
        data, peer = sock.recvfrom(4096)
        sock.sendto(data, peer)


def answer_raw_sctp(sock):
    while True:
        datagram, peer = sock.recvfrom(4096)
        source, destination, _, kind, value = sctp_parse(datagram)
        if destination != SCTP_PORT:
            continue
        if kind == INIT:
            tag = struct.unpack("!I", value[:4])[0]
            cookie = struct.pack("!HHI", 7, 8, tag)  # a parameter of type 7 that holds the client's tag
            answer = sctp_packet(SCTP_PORT, source, tag, INIT_ACK, sctp_init(2) + cookie)
        elif kind == COOKIE_ECHO:
            tag = struct.unpack("!I", value[:4])[0]  # the cookie as we made it
            answer = sctp_packet(SCTP_PORT, source, tag, COOKIE_ACK)
        else:
            continue
        sock.sendto(answer, (peer[0], 0))


def server(address):
    tcp = socket.create_server((address, TCP_PORT))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, UDP_PORT))
    jobs = [(echo_stream, tcp), (echo_datagrams, udp)]
    if has_sctp():
        sctp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        sctp.bind((address, SCTP_PORT))
        sctp.listen()
        jobs.append((echo_stream, sctp))
    else:
        jobs.append((answer_raw_sctp, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)))
    for job in jobs:
        threading.Thread(target=job[0], args=job[1:], daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def ask(sock, text):
    sock.sendall(text)
    answer = sock.recv(4096)
    if answer != text:
        sys.exit(f"traffic.py: sent {text!r}, got back {answer!r}")
    return answer


def raw_sctp_handshake(address):
    """Returns the socket: while it is open the kernel sends no ICMP errors."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    sock.settimeout(TIMEOUT)
    port, tag = 40000, 1

    def exchange(packet, want):
        sock.sendto(packet, (address, 0))
        while True:
            _, destination, _, kind, value = sctp_parse(sock.recv(4096))
            if destination == port and kind == want:
                return value

    answer = exchange(sctp_packet(port, SCTP_PORT, 0, INIT, sctp_init(tag)), INIT_ACK)
    server_tag = struct.unpack("!I", answer[:4])[0]
    cookie = answer[20:24]  # after the fixed part and the parameter's head
    exchange(sctp_packet(port, SCTP_PORT, server_tag, COOKIE_ECHO, cookie), COOKIE_ACK)
    return sock


def client(address):
    tcp = socket.create_connection((address, TCP_PORT), TIMEOUT)
    ask(tcp, b"GET / HTTP/1.0\r\n")
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(TIMEOUT)
    udp.connect((address, UDP_PORT))
    ask(udp, b"one")
    ask(udp, b"two")
    if has_sctp():
        sctp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        sctp.settimeout(TIMEOUT)
        sctp.connect((address, SCTP_PORT))
    else:
        sctp = raw_sctp_handshake(address)
    print("ready", flush=True)
    for line in sys.stdin:
        print(ask(tcp, line.encode()).decode(), end="", flush=True)
    sctp.close()


if __name__ == "__main__":
    roles = {"server": server, "client": client}
    if len(sys.argv) != 3 or sys.argv[1] not in roles:
        sys.exit(__doc__)
    roles[sys.argv[1]](sys.argv[2])
