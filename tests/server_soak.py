"""The server under clients of every kind at once, well-behaved and not, for a long time: `make test-soak`. Called as
server_soak.py BUILD ROOT SCRATCH SECONDS; works with plain builds and under sanitizers.

First every request of a list is made alone. Then threads of many kinds (the functions of KINDS) make the same requests
again, at random, beside clients that dawdle, send rubbish, send too much or vanish; each answer must be what it was
alone, bit for bit. Meanwhile a process of its own asks for /health all the time, memory and open files are sampled, and
a second model is loaded and unloaded over and over. At the end all slots must be idle, nothing may have leaked, and
SIGTERM must end the server at once. Every kind is one check; the last line adds up."""
import json, multiprocessing, os, random, re, select, socket, statistics, struct, subprocess, sys, threading, time

import server_test as base
from server_test import BUILD, SANITIZED, SCRATCH, SLOW, STORIES, check, head

SECONDS = float(sys.argv[4])
KEY = "soak-key"
AUTH, AUTH_LINE = {"Authorization": "Bearer " + KEY}, "Authorization: Bearer %s\r\n" % KEY
TIMEOUT = 5                          # the server's --timeout, in seconds
PATIENCE = 300 if SANITIZED else 60  # seconds until an answer counts as stuck
BROKEN = SCRATCH + "/models/broken.gguf"
HEALTH_BAR = 0.05                    # seconds, 99 of 100 answers; in the plain build
# Resident memory of the last quarter over that of the first. The allocator's own slack grows a little with the odd
# large body; sanitizers keep freed memory in quarantine and a record of every page touched.
FLAT_RATIO, FLAT_MB = (1.15, 48) if SANITIZED else (1.05, 8)

ending = threading.Event()           # set when the time is over
counts, faults, lock = {}, {}, threading.Lock()


class Wrong(Exception):
    pass


def expect(holds, *what):
    if not holds:
        raise Wrong(" ".join(str(x)[:600] for x in what))


def count(kind, n=1):
    with lock:
        counts[kind] = counts.get(kind, 0) + n


# ------------------------------------------------------------------------------------------------------- requests

def call(path, body=None, headers=AUTH, method=None):
    """(status, answer as bytes)."""
    c = base.HTTPConnection("127.0.0.1", S.port, timeout=PATIENCE)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        c.request(method or ("GET" if data is None else "POST"), path, data, headers)
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


def patiently(path, body):
    """call(); where the queue is full, a later one."""
    while True:
        status, data = call(path, body)
        if status != 503 or b"Too many requests" not in data:
            return status, data
        count("(tries that found the queue full)")
        time.sleep(0.2 + random.random())


def ask(path, body):
    """The answer, which is no error."""
    status, data = patiently(path, body)
    expect(status == 200, path, body, status, data)
    return data


def essence(path, data):
    """What must be the same whenever and beside whomever it is asked: no ids, times and places."""
    a = json.loads(data)
    if "/completion" in path and "choices" not in a:
        return {k: a[k] for k in ("content", "tokens_predicted", "stop_type", "completion_probabilities") if k in a}
    return a.get("choices") or a.get("data") or a


def gathered(path, data):
    """A stream's events put together in the shape of essence()."""
    lines = data.decode().split("\n\n")
    expect(lines[-1] == "" and all(x.startswith("data: ") for x in lines[:-1]), "not a stream:", data[-300:])
    events = [x[6:] for x in lines[:-1]]
    if path == "/completion":
        events = [json.loads(e) for e in events]
        expect(events[-1].get("stop"), "no end:", events[-1])
        whole = {k: events[-1][k] for k in ("tokens_predicted", "stop_type")}
        whole["content"] = "".join(e["content"] for e in events)
        rated = [p for e in events for p in e.get("completion_probabilities", [])]
        return {**whole, "completion_probabilities": rated} if rated else whole
    expect(events[-1] == "[DONE]", "no [DONE]:", events[-1])
    texts, rated, reasons = {}, {}, {}
    for e in (json.loads(e) for e in events[:-1]):
        expect("choices" in e, "an error within a stream:", e)
        for c in e["choices"]:
            i, delta = c["index"], c.get("delta", {})
            texts[i] = texts.get(i, "") + (c["text"] if "text" in c else delta.get("content", ""))
            rated.setdefault(i, []).extend((c["logprobs"] or {}).get("content", []))
            reasons[i] = c["finish_reason"] or reasons.get(i)
    return [(texts[i], rated[i], reasons[i]) for i in sorted(texts)]


def flat(choices):
    """essence() of a whole answer in the shape of gathered()."""
    if not isinstance(choices, list):
        return choices
    return [(c["text"] if "text" in c else c["message"]["content"], (c["logprobs"] or {}).get("content", []),
             c["finish_reason"]) for c in choices]


def jobs():
    """[(path, body, model)]"""
    animals = "fox cat dog hen bear frog mouse owl".split()
    fox = "Once upon a time there was a fox. "
    asked = [[{"role": "user", "content": "Tell me a story about a %s." % a}] for a in animals]
    chats = [{"messages": q, "seed": i, "temperature": 0.8, "max_tokens": 40} for i, q in enumerate(asked)]
    chats += [{"messages": asked[0], "logprobs": True, "top_logprobs": 5, "temperature": 0, "max_tokens": 20},
              {"messages": asked[1], "n": 3, "seed": 5, "temperature": 1, "max_tokens": 24},
              {"messages": asked[2], "stop": [" the", "xyz"], "temperature": 0, "max_tokens": 60},
              {"messages": asked[3], "frequency_penalty": 0.5, "repeat_penalty": 1.1, "seed": 3, "max_tokens": 30}]
    texts = [{"prompt": "Once upon a time", "seed": 1, "max_tokens": 30},
             {"prompt": fox * 20, "temperature": 0, "max_tokens": 20},
             {"prompt": ["The fox", "The hen"], "n": 2, "seed": 2, "max_tokens": 16},
             {"prompt": "x", "temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 8, "ignore_eos": True,
              "max_tokens": 40}]
    native = [{"prompt": "Once upon", "n_probs": 4, "temperature": 0, "n_predict": 16},
              {"prompt": "The hen", "n_predict": 24, "seed": 4, "stop": "."}]
    legacy = [{"prompt": "Once", "logprobs": 2, "max_tokens": 8, "temperature": 0}]
    slow = [{"prompt": "y" * i, "seed": i, "max_tokens": 8, "temperature": 1, "model": "slow"} for i in range(1, 4)]
    return ([("/v1/chat/completions", {**b, "model": "stories"}) for b in chats] +
            [("/v1/completions", {**b, "model": "stories"}) for b in texts + legacy] +
            [("/completion", {**b, "model": "stories"}) for b in native] + [("/v1/completions", b) for b in slow] + [
                ("/v1/embeddings", {"input": ["The fox had a kite.", "A hen."], "model": "stories"}),
                ("/v1/embeddings", {"input": "The fox", "encoding_format": "base64", "model": "slow"}),
                ("/tokenize", {"content": "The fox \u00e4\u6f22 " * 50, "model": "stories"}),
                ("/apply-template", {"messages": asked[0], "model": "stories"})])


CHUNKED = b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def second_turn(job):
    """A conversation that goes on after the answer to a chat: its beginning may be found in some slot."""
    path, body = job
    said = {"role": "assistant", "content": ALONE[json.dumps(job)][0]["message"]["content"]}
    more = {"role": "user", "content": "What was it called?"}
    return path, {**body, "messages": body["messages"] + [said, more], "max_tokens": 12}


def is_text(job):
    return "completion" in job[0]


def matches(job, streamed=False):
    """Makes the request; its answer is what it was alone."""
    path, body = job
    want = ALONE[json.dumps(job)]
    if streamed:
        got, want = gathered(path, ask(path, {**body, "stream": True})), flat(want)
    else:
        got = essence(path, ask(path, body))
    expect(got == want, "not as alone:", path, body, got, want)


# ---------------------------------------------------------------------------------------------- the kinds of clients

def of_stories(job):
    return job[1]["model"] == "stories"


def whole(rng):
    matches(rng.choice([j for j in JOBS if is_text(j) and of_stories(j)]))


def streamed(rng):
    matches(rng.choice([j for j in JOBS if is_text(j) and of_stories(j) and "logprobs" not in j[1]]), True)


def each_slot(rng):
    """Every slot has its turn: one that is stuck would keep this waiting."""
    for i in range(4):
        ask("/completion", {"prompt": "Once", "n_predict": 1, "id_slot": i, "model": "stories"})
    ending.wait(1)


def embedding(rng):
    matches(rng.choice([j for j in JOBS if "embeddings" in j[0] and of_stories(j)]))


def words(rng):
    matches(rng.choice([j for j in JOBS if j[0] in ("/tokenize", "/apply-template")]))


def other_model(rng):
    """A burst for the second model, which is then mostly idle long enough to be unloaded, and so is loaded again."""
    burst = [threading.Thread(target=guarded, args=("other_model", matches, rng.choice(
        [j for j in JOBS if not of_stories(j)]))) for _ in range(3)]
    burst.append(threading.Thread(target=guarded, args=("hang_up", hang_up, rng, "slow")))
    for t in burst:
        t.start()
    for t in burst:
        t.join()
    ending.wait(rng.choice((0, 0.5, 3, 4)))


def broken_model(rng):
    status, data = patiently("/v1/completions", {"model": "broken", "prompt": "x", "max_tokens": 1})
    expect(status == 500 and b"broken" in data, status, data)
    ending.wait(1)


def begin(body, path="/completion", size=None):
    """A connection on which the request has been sent."""
    c = S.connect()
    c.settimeout(PATIENCE)
    data = json.dumps(body).encode()
    c.sendall(head(len(data), path, AUTH_LINE) + data)
    return c


def vanish(c, rng):
    """Closes, half of the time with a reset."""
    if rng.random() < 0.5:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def hang_up(rng, model="stories"):
    """In the middle of a stream, or of an answer that is not there yet."""
    body = {"prompt": "Once", "n_predict": 200, "ignore_eos": True, "stream": rng.random() < 0.8, "model": model}
    c = begin(body)
    if rng.random() < 0.8 and body["stream"]:
        c.recv(rng.choice((1, 100, 2000)))
    else:
        time.sleep(rng.random() * 0.3)
    vanish(c, rng)


def crowd(rng):
    """More requests than the queue holds, given up before they had their turn."""
    lot = [begin({"prompt": "The", "n_predict": 20}) for _ in range(40)]
    time.sleep(rng.random() * 0.2)
    refused = 0
    for c in lot:
        c.setblocking(False)
        try:
            got = c.recv(4000)
            expect(got[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 503"), got)
            refused += got.startswith(b"HTTP/1.1 503")
        except BlockingIOError:
            pass
        vanish(c, rng)
    count("(of a crowd, refused)", refused)
    ending.wait(5)


def deaf(rng):
    """Reads nothing of an answer that is too large for any buffer: the server gives up on it."""
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    c.connect(("127.0.0.1", S.port))
    data = json.dumps({"content": "fox " * 200000, "with_pieces": True}).encode()
    c.sendall(head(len(data), "/tokenize", AUTH_LINE) + data)
    ending.wait(TIMEOUT + 3)
    c.settimeout(PATIENCE)
    got = 0
    try:
        while piece := c.recv(1 << 20):
            got += len(piece)
            expect(got < 15000000, "all of it came")
    except ConnectionError:
        pass
    c.close()


def loris(rng):
    """20 heads that come a byte at a time: each is shown the door when --timeout is over."""
    lot, start, doors = [S.connect() for _ in range(20)], time.time(), 0
    data = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 10000
    at = 0
    while lot:
        expect(time.time() - start < TIMEOUT + PATIENCE / 2, "still there:", len(lot))
        for c in select.select(lot, [], [], 0.3)[0]:
            try:
                got = c.recv(1000)
            except ConnectionError:
                got = b""
            expect(got[:12] in (b"", b"HTTP/1.1 408"), got)
            doors += got != b""
            lot.remove(c)
            c.close()
        for c in lot:
            try:
                c.sendall(data[at:at + 1])
            except OSError:
                pass
        at += 1
    expect(doors > 0, "no 408")


def answer(c):
    """What the server says before it closes, or b"" where the connection broke first."""
    got = b""
    try:
        while piece := c.recv(65536):
            got += piece
    except ConnectionError:
        pass
    return got


def half_body(rng):
    """The rest never comes; or the client goes."""
    c = S.connect()
    c.settimeout(PATIENCE)
    half = b'{"prompt":"' + b"x" * rng.randrange(900)
    c.sendall((head(1000, "/completion", AUTH_LINE) if rng.random() < 0.5 else CHUNKED + b"400\r\n") + half)
    if rng.random() < 0.7:
        vanish(c, rng)
    else:
        got = answer(c)
        c.close()
        expect(got.startswith(b"HTTP/1.1 408"), got)


def large_body(rng):
    """10 MB, said or in chunks. The answer may be lost, as the server does not wait for ever until all is sent."""
    c = S.connect()
    c.settimeout(PATIENCE)
    try:
        if rng.random() < 0.5:
            c.sendall(head(10 << 20, "/completion") + b" " * (10 << 20))
        else:
            c.sendall(CHUNKED + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 160)
    except ConnectionError:
        pass
    got = answer(c)
    c.close()
    expect(got[:12] in (b"", b"HTTP/1.1 413"), got)
    count("(413 that were read)", got != b"")
    ending.wait(1)


def large_text(rng):
    """A sound body of hundreds of kilobytes."""
    n = rng.choice((20000, 100000))
    status, data = call("/tokenize", {"content": "fox and " * n})
    expect(status == 200 and len(json.loads(data)["tokens"]) > n, status, data[:100])
    status, data = patiently("/completion", {"prompt": "fox and " * n, "n_predict": 1})
    expect(status == 400 and b"tokens" in data, status, data[:300])
    ending.wait(2)


def bad_json(rng):
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
    body = rng.choice((b"", b"\xff\xfe{{{", b'{"messages":[{"role":"us', b"[]", b'{"prompt":"\xc3\x28"}',
                       b'{"prompt":"\xed\xa0\x80"}', b'{"messages":' + b"[" * 100000 + b"]" * 100000 + b"}",
                       b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"prompt":"\\ud800"}', b'{"prompt":"x"}\0',
                       b"[" * 1000000, b"{" + noise, b'{"prompt":"x","n":"y"}'))
    status, data = patiently(rng.choice(("/completion", "/v1/chat/completions")), body)
    expect(status == 400 and json.loads(data)["error"]["type"] == "invalid_request_error", body[:100], status, data)
    ending.wait(0.02)


def bad_http(rng):
    request, want = rng.choice((
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n\n", b"400"), (b"GET /health\r\n\r\n", b"400"), (b"A" * 40000, b"431"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n y: z\r\n\r\n", b"400"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (CHUNKED + b"xyz\r\n", b"400")))
    c = S.connect()
    c.settimeout(PATIENCE)
    c.sendall(request)
    got = answer(c)
    c.close()
    expect(got[:12] in (b"HTTP/1.1 " + want, b""), request[:60], got[:200])
    ending.wait(0.02)


def pipelined(rng):
    """Several requests in one go are answered in their order, on one connection."""
    ok = json.dumps({"prompt": "Once upon", "n_probs": 4, "n_predict": 16, "model": "stories"}).encode()
    c = S.connect()
    c.settimeout(PATIENCE)
    last = "GET /no HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % AUTH_LINE
    c.sendall(head(len(ok), "/completion", AUTH_LINE) + ok + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3 +
              head(2, "/tokenize", AUTH_LINE) + b"{}" + last.encode())
    got = re.findall(rb"HTTP/1.1 (\d+)", answer(c))
    c.close()
    expect(got in ([b"200"] * 5 + [b"404"], [b"503"] + [b"200"] * 4 + [b"404"]), got)


def wrong_key(rng):
    wrong = {}, {"Authorization": "Bearer " + KEY[:-1]}, {"X-Api-Key": "x" * 1000}, {"Authorization": "Basic eDp5"}
    status, data = call("/v1/completions", {"prompt": "x", "max_tokens": 1}, rng.choice(wrong))
    expect(status == 401 and KEY.encode() not in data, status, data)
    ending.wait(0.1)


def slot(rng):
    """Saves, erases and restores the slots while others use them; a busy slot says so."""
    which, name = rng.randrange(4), "s%d.bin" % rng.randrange(3)
    for action in "save", "erase", "restore":
        status, data = call("/slots/%d?action=%s&model=stories" % (which, action), {"filename": name})
        expect(status in (200, 503), action, status, data)
    status, data = call("/slots/0?action=restore&model=stories", {"filename": rng.choice(("bad.bin", "none", "../x"))})
    expect(status in (400, 503), status, data)
    ending.wait(0.2)


def look(rng):
    path = rng.choice(("/props?model=stories", "/slots", "/v1/models", "/metrics", "/", "/app.js", "/v1/models/slow"))
    status, data = call(path)
    expect(status == 200 and len(data) > 1, path, status, data)
    ending.wait(0.05)


def keep_alive(rng):
    """Many small requests on one connection, some as HTTP/1.0 or HEAD."""
    c = base.HTTPConnection("127.0.0.1", S.port, timeout=PATIENCE)
    for i in range(50):
        c.request(rng.choice(("GET", "HEAD")), "/health")
        r = c.getresponse()
        r.read()
        expect(r.status == 200, r.status)
    c.close()
    c = S.connect()
    c.settimeout(PATIENCE)
    c.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    expect(answer(c).endswith(b'{"status":"ok"}'))
    c.close()
    ending.wait(0.5)


def idle(rng):
    """200 connections that say nothing: the server closes them when --timeout is over, and they come again."""
    lot = [S.connect() for _ in range(200)]
    start = time.time()
    while lot:
        expect(time.time() - start < TIMEOUT + PATIENCE / 2, "still there:", len(lot))
        for c in select.select(lot, [], [], 1)[0]:
            try:
                expect(c.recv(100) == b"")
            except ConnectionError:
                pass
            lot.remove(c)
            c.close()


# How many threads of each kind.
KINDS = {whole: 6, streamed: 6, each_slot: 1, embedding: 1, words: 1, other_model: 1, broken_model: 1, hang_up: 3,
         crowd: 1, deaf: 1, loris: 2, half_body: 2, large_body: 1, large_text: 1, bad_json: 2, bad_http: 1,
         pipelined: 1, wrong_key: 1, slot: 1, look: 1, keep_alive: 1, idle: 1}


def guarded(kind, act, *args):
    """One interaction: counted, and what goes wrong in it noted."""
    try:
        act(*args)
        count(kind)
    except Exception as e:
        with lock:
            faults.setdefault(kind, []).append("%s: %s" % (type(e).__name__, str(e)[:1500]))


def client(kind, seed):
    rng = random.Random(seed)
    while not ending.is_set():
        guarded(kind.__name__, kind, rng)


# ------------------------------------------------------------------------------------------------------ watching

def watch_health(port, path):
    """A process of its own, so that it waits for nothing but the server. Writes how long each answer took, in seconds:
    in turns on a new connection and on one that stays."""
    out, kept, parent = open(path, "wb", buffering=0), None, os.getppid()
    while os.getppid() == parent:
        start = time.perf_counter()
        c = kept or socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        try:
            c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            got = c.recv(4096)
        except OSError:
            got = b""
        took = time.perf_counter() - start
        well = got.startswith(b"HTTP/1.1 200") and got.endswith(b'{"status":"ok"}')
        out.write(struct.pack("<d", took if well else -1))
        if kept:
            c.close()
        kept = None if kept else c
        time.sleep(0.02)


def health():
    data = open(SCRATCH + "/health", "rb").read()
    return sorted(x[0] for x in struct.iter_unpack("<d", data[:len(data) // 8 * 8]))


def part(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def memory():
    """MB of the server's own: what is not a file's."""
    found = re.search(r"^RssAnon:\s+(\d+)", open("/proc/%d/status" % S.process.pid).read(), re.M)
    return int(found.group(1)) / 1024 if found else 0      # it has died


def open_files():
    return len(os.listdir("/proc/%d/fd" % S.process.pid))


def server_threads():
    return len(os.listdir("/proc/%d/task" % S.process.pid))


def progress(line):
    """A line that the next one replaces; or, where this goes into a file, one of many."""
    print("\r\033[K" + line[:110] if sys.stdout.isatty() else line + "\n", end="", flush=True)


def watch(until, samples):
    """Samples until the time is over; False: the server has died."""
    start = said = time.time()
    while time.time() < until and S.process.poll() is None:
        time.sleep(1)
        samples.append((memory(), open_files()))
        if sys.stdout.isatty() or time.time() - said >= 30:
            said = time.time()
            h = health()
            progress("# %4.0f s, %d interactions, %d wrong, %.0f MB, %d files, /health p99 %.1f ms, max %.1f ms" % (
                said - start, sum(counts.values()), sum(map(len, faults.values())), *samples[-1], 1e3 * part(h, 0.99),
                1e3 * part(h, 1)))
    return S.process.poll() is None


# -------------------------------------------------------------------------------------------------------- the soak

def prepare():
    """Starts the server with stories, a second model, and one that breaks once the server knows it (another file takes
    its place)."""
    os.mkdir(SCRATCH + "/slots")
    os.mkdir(SCRATCH + "/models")
    open(SCRATCH + "/slots/bad.bin", "wb").write(os.urandom(5000))
    synth = [BUILD + "/synth", "--shape", "small", "--seed", "1", "-o", SLOW]
    subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
    os.symlink(STORIES, BROKEN)
    server = base.Server("-m", SLOW, "--models-dir", SCRATCH + "/models", "--idle-unload", "1", "-np", "4", "--queue",
                         "24", "--timeout", str(TIMEOUT), "--api-key", KEY, "--slot-save-path", SCRATCH + "/slots")
    os.remove(BROKEN)
    open(BROKEN, "wb").write(open(STORIES, "rb").read()[:200000])
    return server


def settled(what, seconds=30):
    return S.until(what, seconds * (5 if SANITIZED else 1))


def all_idle():
    slots = [s for m in ("stories", "slow") for s in json.loads(call("/slots?model=" + m)[1])]
    numbers = dict(re.findall(r"^(llamacpp:requests_\w+) (\S+)$", call("/metrics")[1].decode(), re.M))
    return not any(s["is_processing"] for s in slots) and set(map(float, numbers.values())) == {0}


def at_rest():
    """(files, threads) when both models are unloaded and no client is there."""
    call("/health")
    settled(lambda: S.logged().count("event=unload") == S.logged().count("slots="), 20)
    time.sleep(TIMEOUT + 2)
    return open_files(), server_threads()


def run_clients(samples):
    threads = [threading.Thread(target=client, args=(kind, 1000 * i + k), daemon=True)
               for i, (kind, n) in enumerate(KINDS.items()) for k in range(n)]
    for t in threads:
        t.start()
    alive = watch(time.time() + SECONDS, samples)
    ending.set()
    until = time.time() + PATIENCE + 2 * TIMEOUT
    for t in threads:
        t.join(max(0.1, until - time.time()) if alive else 1)
    return sum(t.is_alive() for t in threads)


def check_flat(samples):
    quarter = len(samples) // 4
    if quarter < 5:
        print("skip - memory over time: too short a run")
        return 1
    (mb, files), (mb_then, files_then) = [[statistics.median(column) for column in zip(*some)]
                                          for some in (samples[:quarter], samples[-quarter:])]
    check("memory is flat: first quarter %.1f MB, last %.1f MB" % (mb, mb_then), mb_then < mb * FLAT_RATIO + FLAT_MB,
          samples[::max(1, len(samples) // 40)])
    check("and so are open files: %d, %d" % (files, files_then), files_then < files * 1.2 + 20)
    return 0


def check_end(rest):
    check("all slots are idle, and nobody waits", settled(all_idle), S.call("GET", "/slots", headers=AUTH))
    now = at_rest()
    check("open files and threads are as at the beginning: %d, %d" % rest, now == rest, now)
    status, seconds = S.stop()
    check("SIGTERM: status %s after %.2f s" % (status, seconds), status == 0 and seconds < (10 if SANITIZED else 1))
    text = S.logged()
    fault = re.search("(ERROR: |WARNING: (Thread|Address)|runtime error).*", text, re.S)
    check("no sanitizer has a word to say" if SANITIZED else "no word of a fault", not fault, fault and fault.group(0))
    print("# models were loaded %d times, and %d loads failed" % (text.count("slots="), text.count("failed=")))
    check("models came and went", min(text.count("slots="), text.count("event=unload")) >= 2 + SECONDS // 60)


def report_kinds():
    for kind in KINDS:
        name = kind.__name__
        wrong = faults.get(name, [])
        check("%s: %d" % (name, counts.get(name, 0)), not wrong and counts.get(name),
              "\n    ".join(["%d wrong" % len(wrong)] + wrong[:3]))
    check("some refusals of large bodies were read", counts.get("(413 that were read)"))
    for name in sorted(n for n in counts if n.startswith("(")):
        print("# %s: %d" % (name, counts[name]))


def report_health():
    h = health()
    line = "%d answers, p50 %.1f ms, p99 %.1f ms, max %.1f ms" % (len(h), *(1e3 * part(h, x) for x in (0.5, 0.99, 1)))
    check("/health always answers: " + line, h and h[0] >= 0, "%d did not" % sum(x < 0 for x in h))
    if SANITIZED:
        print("skip - /health within %.0f ms: a sanitizer's build takes its time" % (1e3 * HEALTH_BAR))
    else:
        check("/health p99 within %.0f ms" % (1e3 * HEALTH_BAR), part(h, 0.99) < HEALTH_BAR, line)
    return int(SANITIZED)


def main():
    skipped = 0
    for job in JOBS:
        ALONE[json.dumps(job)] = essence(job[0], ask(*job))
        if job[0] == "/v1/chat/completions" and len(job[1]["messages"]) == 1:
            JOBS.append(second_turn(job))                # the loop comes to it
    for name in "s0.bin", "s1.bin", "s2.bin":
        call("/slots/0?action=save&model=stories", {"filename": name})
    counts.clear()
    rest = at_rest()
    prober = multiprocessing.Process(target=watch_health, args=(S.port, SCRATCH + "/health"), daemon=True)
    prober.start()
    samples = []
    start = time.time()
    stuck = run_clients(samples)
    print("%s# %.0f s of load" % ("\n" if sys.stdout.isatty() else "", time.time() - start))
    check("the server lives", S.process.poll() is None, S.logged()[-6000:])
    prober.terminate()
    prober.join()
    check("no client is stuck", not stuck, stuck)
    report_kinds()
    skipped += report_health()
    if S.process.poll() is None:
        skipped += check_flat(samples)
        check_end(rest)
    return skipped


if __name__ == "__main__":
    os.environ.setdefault("ASAN_OPTIONS", "quarantine_size_mb=16")
    JOBS, ALONE, S = jobs(), {}, prepare()
    try:
        n_skipped = main()
    finally:
        S.process.kill()
    print("%d passed, %d failed, %d skipped" % (base.passed, base.failed, n_skipped))
    sys.exit(base.failed > 0)
