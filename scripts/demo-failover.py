#!/usr/bin/env python3
"""Both ends of the traffic of demo-failover.sh.

usage: demo-failover.py server ADDRESS
       demo-failover.py stream ADDRESS
       demo-failover.py ftp ADDRESS

The server takes streams on TCP port 7 and FTP sessions (RFC 959) on port 21 and
prints "ready". The clients read commands from standard input, one per line, and
print one line for each; they exit with status 1 at the first error.

stream sends numbered records continuously, which the server echoes, and checks
every byte of the echo. Commands:
    more    wait until 100 more records are echoed
    end     stop; check that all records are echoed, and the server's count

ftp has two sessions. Commands:
    login       both log in, and the first one gets a file
    announce    the server announces its port to the first one (PASV)
    upload      the second one begins to send an endless file
    fetch       the first one gets a file from the announced port
    finish      the second one ends its file; the server must have the same
    again       both get one more file, in active and in passive mode

All but the last use passive mode. In active mode the firewall replaces the
address in the client's command by one of another length, and adjusts the later
sequence numbers. The kernel sends no event about that adjustment, so no
conntrackd can replicate it in time.
"""

import hashlib
import ftplib
import socket
import sys
import threading
import time

STREAM_PORT, FTP_PORT = 7, 21
RECORD = 1024  # bytes
PACE = 0.005  # seconds between two records
PATIENCE = 40  # seconds without an answer after which a connection counts as dead
FILE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(4096))


def record(number):
    """The number, and bytes that only this number has."""
    head = number.to_bytes(8, "big")
    return (head + hashlib.sha512(head).digest() * (RECORD // 64))[:RECORD]


def wrong(what):
    print("wrong: " + what, flush=True)
    sys.exit(1)


# The server.


def serve_stream(sock):
    received = hashlib.sha256()
    count = 0
    while data := sock.recv(65536):
        received.update(data)
        count += len(data)
        sock.sendall(data)
    # Everything was echoed; the client compares this summary with its own.
    sock.sendall(b"%d %s\n" % (count, received.hexdigest().encode()))
    sock.close()


def serve_ftp(sock):
    lines = sock.makefile("r", encoding="ascii", newline="\r\n")
    passive, peer = None, None

    def reply(text):
        sock.sendall(text.encode("ascii") + b"\r\n")

    def data_connection():
        if passive is None:
            return socket.create_connection(peer, PATIENCE)
        data, _ = passive.accept()
        passive.close()
        return data

    reply("220 ready")
    for line in lines:
        command, _, argument = line.strip().partition(" ")
        if command == "USER":
            reply("230 welcome")
        elif command == "TYPE":
            reply("200 ok")
        elif command == "PORT":
            numbers = [int(n) for n in argument.split(",")]
            passive, peer = None, (".".join(map(str, numbers[:4])), numbers[4] * 256 + numbers[5])
            reply("200 ok")
        elif command == "PASV":
            address = sock.getsockname()[0]
            passive = socket.create_server((address, 0))
            passive.settimeout(PATIENCE)
            high, low = divmod(passive.getsockname()[1], 256)
            reply("227 Entering Passive Mode (%s,%d,%d)" % (address.replace(".", ","), high, low))
        elif command == "RETR":
            try:
                data = data_connection()
            except OSError as error:
                reply("425 %s: %s" % (peer, error))
                continue
            reply("150 here it comes")
            data.sendall(FILE)
            data.close()
            reply("226 done")
        elif command == "STOR":
            data = data_connection()
            reply("150 go on")
            received = hashlib.sha256()
            count = 0
            while piece := data.recv(65536):
                received.update(piece)
                count += len(piece)
            data.close()
            reply("226 %d %s" % (count, received.hexdigest()))
        elif command == "QUIT":
            reply("221 bye")
            return
        else:
            reply("502 not here")


def listen(address, port, serve):
    listener = socket.create_server((address, port))

    def accept():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def server(address):
    listen(address, STREAM_PORT, serve_stream)
    listen(address, FTP_PORT, serve_ftp)
    print("ready", flush=True)
    sys.stdin.read()


# The stream's client.


class Stream:
    def __init__(self, address):
        self.sock = socket.create_connection((address, STREAM_PORT), PATIENCE)
        self.ending = threading.Event()
        self.sent = self.received = 0  # records
        self.longest = 0.0  # seconds between two records that came back
        self.finished = False
        self.summary = b""
        self.error = None
        self.progress = threading.Condition()
        threading.Thread(target=self.guard, args=(self.send,), daemon=True).start()
        threading.Thread(target=self.guard, args=(self.receive,), daemon=True).start()

    def guard(self, work):
        try:
            work()
        except (OSError, ValueError) as error:
            with self.progress:
                self.error = self.error or str(error)
                self.progress.notify_all()

    def send(self):
        while not self.ending.wait(PACE):
            self.sock.sendall(record(self.sent))
            self.sent += 1
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self):
        pending = b""
        last = time.monotonic()
        while data := self.sock.recv(65536):
            now = time.monotonic()
            gap, last = now - last, now
            pending += data
            with self.progress:
                self.longest = max(self.longest, gap)
                # After everything is sent, the bytes that do not fill a record are the summary.
                while len(pending) >= RECORD:
                    if pending[:RECORD] != record(self.received):
                        raise ValueError("record %d did not come back as it was sent" % self.received)
                    pending = pending[RECORD:]
                    self.received += 1
                self.progress.notify_all()
        with self.progress:
            self.finished, self.summary = True, pending
            self.progress.notify_all()

    def wait(self, condition):
        with self.progress:
            if not self.progress.wait_for(lambda: self.error or self.finished or condition(), PATIENCE):
                wrong("%d records sent, %d back, no more for %d s" % (self.sent, self.received, PATIENCE))
            if self.error:
                wrong("after %d records: %s" % (self.received, self.error))

    def more(self):
        goal = self.received + 100
        self.wait(lambda: self.received >= goal)
        if self.received < goal:
            wrong("the connection ended after %d records" % self.received)
        return "more: %d records of %d bytes are back so far" % (self.received, RECORD)

    def end(self):
        self.ending.set()
        self.wait(lambda: self.finished)
        sent = hashlib.sha256()
        for number in range(self.sent):
            sent.update(record(number))
        summary = "%d %s\n" % (self.sent * RECORD, sent.hexdigest())
        if self.received != self.sent or self.summary.decode() != summary:
            wrong("sent %d records, %d came back; the server has %r, the client %r" % (
                self.sent, self.received, self.summary, summary))
        return "end: %d bytes there and back, none lost; longest gap %.2f s" % (self.sent * RECORD, self.longest)


def stream(address):
    client = Stream(address)
    run({"more": client.more, "end": client.end})


# The FTP client.


class Sessions:
    def __init__(self, address):
        self.first = ftplib.FTP(timeout=PATIENCE)
        self.second = ftplib.FTP(timeout=PATIENCE)
        self.address = address

    def get(self, session):
        pieces = []
        session.retrbinary("RETR file", pieces.append)
        if b"".join(pieces) != FILE:
            wrong("a file of %d bytes came as %d other bytes" % (len(FILE), len(b"".join(pieces))))
        return len(FILE)

    def login(self):
        for session in (self.first, self.second):
            session.connect(self.address, FTP_PORT)
            session.login("demo")
        return "login: two sessions; a file of %d bytes came" % self.get(self.first)

    def announce(self):
        self.place = self.first.makepasv()
        return "announce: the server waits on port %d" % self.place[1]

    def upload(self):
        self.data = self.second.transfercmd("STOR file")
        self.sent, self.count = hashlib.sha256(), 0
        self.ending = threading.Event()
        self.sender = threading.Thread(target=self.send, daemon=True)
        self.sender.start()
        return "upload: begun"

    def send(self):
        while not self.ending.wait(PACE):
            piece = record(self.count)
            self.data.sendall(piece)
            self.sent.update(piece)
            self.count += 1

    def fetch(self):
        data = socket.create_connection(self.place, PATIENCE)
        self.first.sendcmd("RETR file")
        pieces = []
        while piece := data.recv(65536):
            pieces.append(piece)
        data.close()
        self.first.voidresp()
        if b"".join(pieces) != FILE:
            wrong("the announced file came with other bytes")
        return "fetch: the file came from the announced port, %d bytes" % len(FILE)

    def finish(self):
        self.ending.set()
        self.sender.join(PATIENCE)
        if self.sender.is_alive():
            wrong("the upload is stuck after %d records" % self.count)
        self.data.close()
        answer = self.second.voidresp()
        if answer != "226 %d %s" % (self.count * RECORD, self.sent.hexdigest()):
            wrong("uploaded %d bytes, the server says %s" % (self.count * RECORD, answer))
        return "finish: the server has all %d bytes of the upload" % (self.count * RECORD)

    def again(self):
        self.first.set_pasv(False)
        self.get(self.first)
        self.get(self.second)
        return "again: two new files came, in active and in passive mode"


def ftp(address):
    sessions = Sessions(address)
    run({name: getattr(sessions, name) for name in ("login", "announce", "upload", "fetch", "finish", "again")})


def run(commands):
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(commands[line.strip()](), flush=True)
        except (OSError, EOFError, ftplib.Error) as error:
            wrong("%s: %s" % (line.strip(), error))


if __name__ == "__main__":
    roles = {"server": server, "stream": stream, "ftp": ftp}
    if len(sys.argv) != 3 or sys.argv[1] not in roles:
        sys.exit(__doc__)
    roles[sys.argv[1]](sys.argv[2])
