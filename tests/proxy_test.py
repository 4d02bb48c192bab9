"""Three servers behind the proxies, which run with the files that examples/server holds; only ports, a waiting time and
what needs root or the system's folders is replaced. Called by test_proxy.sh: proxy_test.py BUILD ROOT SCRATCH PROXY...

The servers are called one, two and three, and say so in the `model` of every answer. All have the model slow.gguf,
whose streams last long enough to be looked at."""
import json, os, re, socket, subprocess, sys, threading, time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUILD, ROOT, SCRATCH = sys.argv[1:4]
KEY = {"Authorization": "Bearer sk-test"}
# Unlike from the first letter on, so that none is given another's slot for the sake of their common beginning.
TALKS = ["%c-talk" % c for c in range(97, 121)]
HELLO = ": hello, here are some words, enough of them that it is worth while to find the slot that has read them. "
failed = 0


def check(name, holds, detail=""):
    global failed
    print("ok - " + name if holds else "not ok - %s\n    %s" % (name, str(detail)[:1000]), flush=True)
    failed += not holds


def until(holds, seconds):
    end = time.time() + seconds
    while time.time() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call(port, method, path, body=None, headers=KEY):
    """(status, headers in lower case, answer as JSON where it is some)"""
    c = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        c.request(method, path, None if body is None else json.dumps(body), headers)
        r = c.getresponse()
        data = r.read()
    finally:
        c.close()
    names = {k.lower(): v for k, v in r.getheaders()}
    return r.status, names, json.loads(data) if "json" in names.get("content-type", "") else data


def question(texts, **fields):
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
    return {"messages": messages, "temperature": 0, "ignore_eos": True, "max_tokens": 4, **fields}


# ------------------------------------------------------------------------------------------------ servers, proxies

class Server:
    def __init__(self, name, port=0):
        self.log = open(SCRATCH + "/" + name + ".log", "a")
        self.process = subprocess.Popen(
            [BUILD + "/server", "-m", SCRATCH + "/slow.gguf", "-a", name, "-t", "1", "-np", "24",
             "--api-key", "sk-test", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log)
        self.port = int(self.process.stdout.readline().decode().rsplit(":", 1)[1])
        until(lambda: call(self.port, "GET", "/health")[0] == 200, 30)

    def busy(self):
        return sum(s["is_processing"] for s in call(self.port, "GET", "/slots")[2])

    def end(self, kill=False):
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(30)
        self.process.stdout.close()


class Impostor(BaseHTTPRequestHandler):
    """A server that is well, and whose queue is full."""
    asked = 0

    def do_GET(self):
        self.reply(200, b'{"status":"ok"}')

    def do_POST(self):
        Impostor.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(503, b'{"error":{"code":503,"message":"full","type":"unavailable_error"}}')

    def reply(self, status, body):
        head = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
        self.wfile.write(head + body)

    def log_message(self, *args):
        pass


NGINX = """daemon off; %s worker_processes 2; pid %s/nginx.pid; error_log %s/nginx.log;
events { worker_connections 512; }
http { access_log off; %s include %s/nginx.conf; }
"""


class Proxy:
    def __init__(self, name, ports):
        self.name, self.port = name, free_port()
        if name == "nginx":
            self.write("nginx.conf", ports, [("listen 8080;", "listen 127.0.0.1:%d;" % self.port)])
            folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            temp = " ".join("%s_temp_path %s/%s;" % (x, SCRATCH, x) for x in folders)
            open(SCRATCH + "/main.conf", "w").write(
                NGINX % ("user root;" if os.getuid() == 0 else "", SCRATCH, SCRATCH, temp, SCRATCH))
            args = ["nginx", "-p", SCRATCH, "-e", SCRATCH + "/nginx.log", "-c", SCRATCH + "/main.conf"]
        else:
            changes = [("bind :8080", "bind 127.0.0.1:%d" % self.port), ("log /dev/log", "log stdout format raw")]
            for line in ("user haproxy", "group haproxy", "chroot /var/lib/haproxy"):
                changes.append(("    " + line + "\n", ""))
            self.write("haproxy.cfg", ports, changes)
            args = ["haproxy", "-db", "-f", SCRATCH + "/haproxy.cfg"]
        self.out = open(SCRATCH + "/" + name + ".out", "w+")
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)

    def write(self, name, ports, changes):
        """Our configuration to SCRATCH, with these changes and the servers' ports."""
        text = open(ROOT + "/examples/server/" + name).read()
        text = text.replace("fail_timeout=5s", "fail_timeout=1s")                # to wait less
        changes = changes + [("127.0.0.1:%d" % (8081 + i), "127.0.0.1:%d" % port) for i, port in enumerate(ports)]
        for old, new in changes:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        open(SCRATCH + "/" + name, "w").write(text)

    def up(self):
        try:
            return call(self.port, "GET", "/health", headers={})[0] == 200
        except OSError:
            return False

    def ask(self, talk, texts=(HELLO,), **fields):
        """The answer, or its status where that is not 200."""
        body = question([talk + texts[0] if talk else texts[0], *texts[1:]], **fields)
        headers = {**KEY, "X-Session-ID": talk} if talk else KEY
        status, _, answer = call(self.port, "POST", "/v1/chat/completions", body, headers)
        return answer if status == 200 else status

    def where(self, talk):
        """The name of the server that answers."""
        answer = self.ask(talk, max_tokens=1)
        return answer if isinstance(answer, int) else answer["model"]

    def open(self, talk, text="Hello", **fields):
        """A socket with a request sent."""
        body = json.dumps(question([talk + text], **fields)).encode()
        s = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n"
                  b"X-Session-ID: %s\r\nContent-Length: %d\r\n\r\n" % (talk.encode(), len(body)) + body)
        return s

    def end(self):
        self.process.terminate()
        self.process.wait(30)
        self.out.close()


def read_pieces(s, pieces):
    """Appends what comes until the last chunk or the end of the connection, as (seconds, bytes)."""
    start = time.time()
    try:
        while True:
            data = s.recv(65536)
            if not data:
                break
            pieces.append((time.time() - start, data))
            if data.endswith(b"0\r\n\r\n"):
                break
    except OSError:
        pass
    s.close()


# -------------------------------------------------------------------------------------------------- the tests

def full_server(proxies, port):
    """A 503 of one server is another one's work. One only: nginx would pass over the server after the second."""
    fake = ThreadingHTTPServer(("127.0.0.1", port), Impostor)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    for p in proxies:
        check(p.name + " starts", until(p.up, 10), open(SCRATCH + "/" + p.name + ".out").read())
        Impostor.asked, statuses = 0, []
        for talk in TALKS:
            if not Impostor.asked:
                statuses.append(p.ask(talk))
        bad = [s for s in statuses if isinstance(s, int)]
        check(p.name + ": a full server's request goes to another", Impostor.asked == 1 and not bad,
              (Impostor.asked, bad))
    fake.shutdown()
    fake.server_close()


def passes_through(p):
    status, headers, page = call(p.port, "GET", "/", headers={})
    check(p.name + ": the page, with its headers",
          status == 200 and b"<title>" in page and "content-security-policy" in headers, headers)
    status, headers, answer = call(p.port, "POST", "/v1/chat/completions", question(["Hello"]), {})
    check(p.name + ": 401", status == 401 and answer["error"]["type"] == "authentication_error" and
          headers["www-authenticate"] == "Bearer", (status, headers, answer))
    status, _, answer = call(p.port, "POST", "/v1/chat/completions", {"messages": 5})
    check(p.name + ": 400", status == 400 and "messages" in answer["error"]["message"], answer)
    status, _, answer = call(p.port, "POST", "/tokenize", {"content": "A kite", "unknown": "x" * 7000000})
    check(p.name + ": 7 MB", status == 200 and answer["tokens"], status)
    s = socket.create_connection(("127.0.0.1", p.port), timeout=10)
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{")
    answer = s.recv(65536).decode()
    s.close()
    check(p.name + ": 413 as JSON", answer.startswith("HTTP/1.1 413") and '"invalid_request_error"' in answer, answer)


def streaming(p):
    """A stream's first event comes before its prompt is read. In the first stream that takes long, and then there is
    little more: all of it fits into any buffer, so a proxy that collects gives it away at once. The second is long, and
    its server sends some of it every 10 ms."""
    pieces, many = [], []
    read_pieces(p.open(p.name, HELLO * 60, stream=True, max_tokens=8), pieces)
    text = b"".join(data for _, data in pieces)
    check(p.name + ": a stream", len(text) < 4000 and text.count(b"data: ") > 2 and b"data: [DONE]" in text,
          text[-300:])
    times = [seconds for seconds, data in pieces if b"data: " in data] or [0]    # the head may come earlier
    check(p.name + ": comes in pieces, not at the end", times[0] < times[-1] / 2,
          [(seconds, len(data)) for seconds, data in pieces])
    read_pieces(p.open(p.name, stream=True, max_tokens=400), many)
    check(p.name + ": in many where there are many", len(many) > 8, [(seconds, len(data)) for seconds, data in many])


def hang_up(p, servers):
    for stream in (True, False):
        s = p.open("hang", stream=stream, max_tokens=3000)
        begun = until(lambda: sum(x.busy() for x in servers) == 1, 5)
        s.close()
        check("%s: a client that hangs up ends its %s" % (p.name, "stream" if stream else "request"),
              begun and until(lambda: sum(x.busy() for x in servers) == 0, 2), begun)


def affinity(p):
    """{talk: server}"""
    time.sleep(5)       # two of HAProxy's checks: a server that the tests before made it give up has come back
    first = {talk: p.ask(talk) for talk in TALKS}
    bad = [a for a in first.values() if isinstance(a, int)]
    check(p.name + ": conversations are answered", not bad, bad)
    if bad:
        return {}
    homes = {talk: a["model"] for talk, a in first.items()}
    counts = [list(homes.values()).count(name) for name in ("one", "two", "three")]
    check(p.name + ": they are spread", min(counts) > 0, counts)
    second = {talk: p.ask(talk, [HELLO, first[talk]["choices"][0]["message"]["content"], "And then?"])
              for talk in reversed(TALKS)}       # or taking turns would do
    check(p.name + ": the next turn goes to the same server", all(second[t]["model"] == homes[t] for t in TALKS),
          [(homes[t], second[t]["model"]) for t in TALKS])
    cached = [(second[t]["timings"]["cache_n"], first[t]["usage"]["prompt_tokens"]) for t in TALKS]
    check(p.name + ": which has read the first", all(have >= n - 2 for have, n in cached), cached)
    names = {p.ask(None)["model"] for i in range(6)}
    check(p.name + ": without a name the address decides", len(names) == 1, names)
    return homes


def killed(proxies, homes, server):
    """Server two dies in the middle of a stream and of an answer that is not streamed."""
    streams, wholes, threads = {}, {}, []
    for p in proxies:
        a, b = ([t for t in TALKS if homes[p.name].get(t) == "two"] * 2)[:2]
        streams[p.name] = []
        s = p.open(a, stream=True, max_tokens=3500)
        threads.append(threading.Thread(target=read_pieces, args=(s, streams[p.name])))
        threads.append(threading.Thread(target=lambda p=p, b=b: wholes.update({p.name: p.ask(b, max_tokens=1500)})))
    for t in threads:
        t.start()
    check("the proxies keep server two busy",
          until(lambda: server.busy() == len(threads) and all(len(x) > 5 for x in streams.values()), 5), server.busy())
    server.end(kill=True)
    for t in threads:
        t.join()
    for p in proxies:
        got = b"".join(data for _, data in streams[p.name])
        check(p.name + ": a stream whose server dies does not look whole",
              got.count(b"data: ") > 1 and b"[DONE]" not in got and not got.endswith(b"0\r\n\r\n"), got[-200:])
        answer = wholes[p.name]
        check(p.name + ": a request that has no answer yet gets it elsewhere", not isinstance(answer, int) and
              answer["usage"]["completion_tokens"] == 1500 and answer["model"] != "two", answer)
        now = {talk: p.where(talk) for talk in TALKS}
        check(p.name + ": all conversations go on", all(v in ("one", "three") for v in now.values()), now)
        check(p.name + ": those of the other servers where they were",
              all(now[t] == home for t, home in homes[p.name].items() if home != "two"), (now, homes[p.name]))


def returns(proxies, homes):
    for p in proxies:
        check(p.name + ": a server that is back gets its conversations back",
              until(lambda: {talk: p.where(talk) for talk in TALKS} == homes[p.name], 10), homes[p.name])


def nobody(p):
    status, _, answer = call(p.port, "POST", "/v1/chat/completions", question(["Hello"]))
    check(p.name + ": no server is a 503 in JSON", status == 503 and answer["error"]["code"] == 503 and
          answer["error"]["type"] == "unavailable_error", (status, answer))


def main():
    port = free_port()
    servers = [Server("one"), None, Server("three")]
    proxies = [Proxy(name, [servers[0].port, port, servers[2].port]) for name in sys.argv[4:]]
    homes = {}
    try:
        full_server(proxies, port)
        servers[1] = Server("two", port)
        for p in proxies:
            passes_through(p)
            streaming(p)
            hang_up(p, servers)
            homes[p.name] = affinity(p)
        killed(proxies, homes, servers[1])
        servers[1] = Server("two", port)
        returns(proxies, homes)
        for s in servers:
            s.end()
        for p in proxies:
            nobody(p)
    except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
        check("the tests run", False, repr(error))
        raise
    finally:
        for thing in proxies + servers:
            if thing and thing.process.poll() is None:
                thing.end()
    return 1 if failed else 0


sys.exit(main())
