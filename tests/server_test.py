"""The server through its sockets. Called by test_server.sh: server_test.py BUILD ROOT SCRATCH; prints "ok - ..." lines.

stories.gguf is the model that says something; slow.gguf (random weights, 4,096 tokens of context) the one that is busy for a
while. Sections are functions at the end, each with a server of its own where it needs other options."""
import base64, json, math, os, re, signal, socket, struct, subprocess, sys, threading, time
from http.client import HTTPConnection

BUILD, ROOT, SCRATCH = sys.argv[1:4]
ONLY = sys.argv[4:]
STORIES, SLOW = ROOT + "/examples/stories.gguf", SCRATCH + "/slow.gguf"
SANITIZED = "address" in BUILD or "thread" in BUILD
passed = failed = 0


def check(name, holds, detail=""):
    global passed, failed
    print("ok - " + name if holds else "not ok - %s\n    %s" % (name, str(detail)[:1500]), flush=True)
    passed += bool(holds)
    failed += not holds


def same(name, a, b):
    check(name, a == b, "%r is not %r" % (a, b))


# ---------------------------------------------------------------------------------------------- a server, a client

class Server:
    def __init__(self, *options, model=STORIES, wait=True, **popen):
        self.log = open(SCRATCH + "/log.txt", "w+")
        models = [] if model is None else ["-m", model]
        popen.setdefault("stderr", self.log)
        self.process = subprocess.Popen([BUILD + "/server", "--port", "0", *models, *options], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, **popen)
        line = self.process.stdout.readline().decode()
        self.port = int(line.rsplit(":", 1)[1]) if ":" in line else 0
        if wait and self.port:
            self.until(lambda: self.call("GET", "/health")[0] == 200, 60)

    def until(self, holds, seconds=30):
        end = time.time() + seconds
        while time.time() < end:
            if holds():
                return True
            time.sleep(0.02)
        return False

    def call(self, method, path, body=None, headers={}, raw=False):
        """(status, headers, answer): the answer as JSON, or with raw as bytes."""
        c = HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        c.request(method, path, data, headers)
        r = c.getresponse()
        answer = r.read()
        c.close()
        names = {k.lower(): v for k, v in r.getheaders()}
        return r.status, names, answer if raw else json.loads(answer or b"null")

    def post(self, path, body, headers={}):
        return self.call("POST", path, body, headers)[2]

    def chat(self, text="Tell me a story about a fox.", **fields):
        fields.setdefault("temperature", 0)
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def stream(self, path, body):
        """The events of a streamed answer, as the strings behind "data: "."""
        status, headers, raw = self.call("POST", path, {**body, "stream": True}, raw=True)
        text = raw.decode("utf-8")
        lines = text.split("\n\n")
        assert status == 200 and lines[-1] == "" and all(x.startswith("data: ") for x in lines[:-1]), text
        return [x[6:] for x in lines[:-1]]

    def raw(self, data, shut=False, wait=20):
        """Everything the server answers to these bytes until it closes, or is silent for wait seconds."""
        s = self.connect()
        s.settimeout(wait)
        got = b""
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
        except (socket.timeout, ConnectionError, BrokenPipeError):
            pass
        s.close()
        return got

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name):
        text = self.call("GET", "/metrics", raw=True)[2].decode()
        return float(re.search("^%s (.*)$" % re.escape(name), text, re.M).group(1))

    def busy(self):
        return sum(s["is_processing"] for s in self.call("GET", "/slots")[2])

    def logged(self):
        self.log.flush()
        return open(SCRATCH + "/log.txt").read()

    def stop(self, number=signal.SIGTERM):
        """(exit status, seconds it took)"""
        start = time.time()
        self.process.send_signal(number)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "hung"
        self.process.stdout.close()
        return status, time.time() - start

    def __enter__(self):
        return self

    def __exit__(self, *error):
        status, seconds = self.stop()
        text = self.logged()
        fault = re.search("(ERROR: |WARNING: |runtime error).*", text, re.S)
        check("ended well", status == 0 and seconds < (10 if SANITIZED else 1) and not fault,
              "%s after %.2f s: %s" % (status, seconds, fault.group(0) if fault else text[-1000:]))


def run(program, *args):
    return subprocess.run([BUILD + "/" + program, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def head(length, path="/v1/chat/completions", extra=""):
    return ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path, length, extra)).encode()


def in_parallel(calls):
    """The results of calling all of them at once."""
    results = [None] * len(calls)

    def one(i):
        try:
            results[i] = calls[i]()
        except Exception as e:
            results[i] = e
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def content(answer):
    return answer["choices"][0]["message"]["content"]


# --------------------------------------------------------------------------------------------------- sections

def command_line():
    same("--help", run("server", "--help").returncode, 0)
    check("--version", b"0.1" in run("server", "--version").stdout)
    r = run("server", "--prot", "1", "-m", STORIES)
    check("an unknown flag names the nearest", r.returncode == 2 and b"--port" in r.stderr, r)
    r = run("server")
    check("no model", r.returncode == 2 and b"-m FILE" in r.stderr, r)
    r = run("server", "-m", "/no/such.gguf", "--port", "0")
    check("a model that is not there", r.returncode == 1 and b"/no/such.gguf" in r.stderr, r)
    open(SCRATCH + "/bad.gguf", "wb").write(open(STORIES, "rb").read()[:500000])
    r = run("server", "-m", SCRATCH + "/bad.gguf", "--port", "0")
    check("a damaged model", r.returncode == 1 and r.stderr.strip(), r)
    s = socket.create_server(("127.0.0.1", 0))
    r = run("server", "-m", STORIES, "--port", str(s.getsockname()[1]))
    check("a port in use", r.returncode == 1 and b"cannot listen" in r.stderr, r)
    s.close()
    flags = ("--host 127.0.0.1 -c 4096 -b 512 -ngl 0 -t 1 -ub 512 -tb 2 -n 16 -p Hello --gpu-layers -1 --n-gpu-layers 4 --temp 0.5 -cb -np 2 -a "
             "bitnet --embedding --embeddings --pooling mean --no-mmap --chat-template bitnet --metrics --slots --no-webui -fa -ctk f16 "
             "-ctv f16 -v --timeout 600").split()
    with Server(*flags) as s:
        same("all flags of llama-server's callers: alias", s.call("GET", "/v1/models")[2]["data"][0]["id"], "bitnet")
        same("-n", s.chat()["usage"]["completion_tokens"], 16)
        same("-np", len(s.call("GET", "/slots")[2]), 2)
        same("--no-webui", s.call("GET", "/")[0], 404)


def routes():
    with Server() as s:
        small = {"max_tokens": 2, "temperature": 0}
        posts = {"/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], **small}, "/completions": {"prompt": "Hi", **small},
                 "/completion": {"prompt": "Hi", "n_predict": 2}, "/embeddings": {"input": "Hi"}, "/embedding": {"content": "Hi"},
                 "/tokenize": {"content": "Hi"}, "/detokenize": {"tokens": [5, 6]},
                 "/apply-template": {"messages": [{"role": "user", "content": "Hi"}]}}
        for path, body in posts.items():
            for prefix in "", "/v1":
                status, headers, answer = s.call("POST", prefix + path, body)
                check("POST " + prefix + path, status == 200 and "error" not in answer, answer)
            status, headers, answer = s.call("GET", path)
            check("GET %s is refused" % path, status == 405 and "POST" in headers["allow"] and answer["error"]["code"] == 405, answer)
        for path in "/health", "/models", "/props", "/slots":
            for prefix in "", "/v1":
                same("GET " + prefix + path, s.call("GET", prefix + path)[0], 200)
            same("POST %s is refused" % path, s.call("POST", path, {})[0], 405)
        status, headers, answer = s.call("GET", "/metrics", raw=True)
        check("GET /metrics", status == 200 and b"llamacpp:prompt_tokens_total" in answer and headers["content-type"].startswith("text/plain"))
        same("health says", s.call("GET", "/health")[2], {"status": "ok"})
        status, headers, answer = s.call("GET", "/nothing")
        same("no such path", (status, answer["error"]["type"]), (404, "not_found_error"))
        models = s.call("GET", "/v1/models")[2]
        same("models", (models["object"], models["data"][0]["id"], models["data"][0]["object"]), ("list", "stories", "model"))
        same("one model", s.call("GET", "/v1/models/stories")[2]["id"], "stories")
        same("another model", s.call("GET", "/v1/models/other")[0], 404)
        props = s.call("GET", "/props")[2]
        same("props", (props["total_slots"], props["default_generation_settings"]["n_ctx"]), (4, 256))
        status, headers, answer = s.call("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"})
        check("OPTIONS", status == 204 and headers["access-control-allow-origin"] == "*" and "Authorization" in headers["access-control-allow-headers"]
              and "POST" in headers["access-control-allow-methods"], headers)
        status, headers, answer = s.call("HEAD", "/health", raw=True)
        check("HEAD", status == 200 and answer == b"" and headers["content-length"] == "15", headers)
        status, headers, answer = s.call("GET", "/", raw=True)
        check("the page", status == 200 and b"<html" in answer.lower() and "default-src 'none'" in headers["content-security-policy"]
              and b"http" not in re.sub(rb"http://www.w3.org/\S+", b"", answer), answer[:300])
        for path, kind in ("/app.js", "text/javascript"), ("/app.css", "text/css"):
            status, headers, answer = s.call("GET", path, raw=True)
            check(path, status == 200 and headers["content-type"].startswith(kind))


def chat():
    with Server() as s:
        a = s.chat(max_tokens=30, top_p=0.9, top_k=40, repeat_penalty=1.0, stream=False)
        check("body A", a["object"] == "chat.completion" and a["choices"][0]["finish_reason"] == "length" and a["model"] == "stories"
              and a["choices"][0]["message"]["role"] == "assistant" and a["id"].startswith("chatcmpl-"), a)
        check("a story", content(a).startswith("Once upon a time"), a)
        same("usage", (a["usage"]["completion_tokens"], a["usage"]["total_tokens"]), (30, 30 + a["usage"]["prompt_tokens"]))
        check("timings", all(k in a["timings"] for k in "prompt_n prompt_ms prompt_per_second predicted_n predicted_ms predicted_per_second".split()))
        headers = {"Authorization": "Bearer not-needed", "x-stainless-lang": "js", "Content-Type": "application/json"}
        b = s.post("/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "model": "bitnet",
                                         "stop": None, "max_tokens": 30, "temperature": 0, "logit_bias": None, "n": None, "stream": None,
                                         "tools": None, "response_format": None, "top_p": None, "seed": None, "user": "me", "x": [{}]}, headers)
        same("body B: null is absent, unknown fields are nothing", content(b), content(a))
        same("tools: [], response_format: text, grammar: empty", content(s.chat(max_tokens=30, tools=[], grammar="", response_format={"type": "text"},
                                                                               tool_choice="auto")), content(a))
        parts = [{"type": "text", "text": "Tell me a story "}, {"type": "text", "text": "about a fox."}]
        same("content in parts", content(s.chat(parts, max_tokens=30)), content(a))
        same("max_completion_tokens", s.chat(max_completion_tokens=3)["usage"]["completion_tokens"], 3)
        same("n_predict", s.chat(n_predict=3)["usage"]["completion_tokens"], 3)
        same("max_tokens 0", s.chat(max_tokens=0)["usage"]["completion_tokens"], 0)
        full = s.chat(max_tokens=None)
        same("to the model's end", full["choices"][0]["finish_reason"], "stop")
        same("max_tokens -1", content(s.chat(max_tokens=-1)), content(full))
        word = content(full).split()[7]
        cut = s.chat(stop=word)
        same("stop", (content(cut), cut["choices"][0]["finish_reason"]), (content(full).split(word)[0], "stop"))
        same("stop: a list", content(s.chat(stop=["nothing", word])), content(cut))
        same("stop: empty strings stop nothing", content(s.chat(stop=["", word])), content(cut))
        two = s.chat(seed=7, temperature=1, n=3, max_tokens=20)
        texts = [c["message"]["content"] for c in two["choices"]]
        check("n", [c["index"] for c in two["choices"]] == [0, 1, 2] and len(set(texts)) == 3 and two["usage"]["completion_tokens"] == 60, two)
        same("seed", [c["message"]["content"] for c in s.chat(seed=7, temperature=1, n=3, max_tokens=20)["choices"]], texts)
        check("no seed: another text each time", len({content(s.chat(temperature=1.5, max_tokens=30)) for _ in range(4)}) > 1)
        first = s.post("/tokenize", {"content": "Once"})["tokens"][0]
        check("logit_bias", not content(s.chat(max_tokens=5, logit_bias={str(first): -100})).startswith("Once"))
        check("logit_bias: llama-server's form", not content(s.chat(max_tokens=5, logit_bias=[[first, False]])).startswith("Once"))
        same("logit_bias up", content(s.chat(max_tokens=3, logit_bias={str(first): 100})), "OnceOnceOnce")
        check("frequency_penalty", "OnceOnceOnce" not in content(s.chat(max_tokens=9, logit_bias={str(first): 30}, frequency_penalty=20)))
        check("ignore_eos", s.chat(ignore_eos=True)["choices"][0]["finish_reason"] == "length")
        system = s.post("/apply-template", {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                                                          {"role": "assistant", "content": None}, {"role": "user", "content": "Ho"}]})["prompt"]
        check("roles", "System: Be kind." in system and system.endswith("Assistant: "), system)
        logprobs(s, full)


def logprobs(s, full):
    a = s.chat(max_tokens=12, logprobs=True, top_logprobs=4)["choices"][0]["logprobs"]["content"]
    check("logprobs", len(a) == 12 and all(len(t["top_logprobs"]) == 4 and t["logprob"] <= 0 for t in a), a)
    check("the greedy token is the best", all(t["token"] == t["top_logprobs"][0]["token"] for t in a), a)
    same("their bytes are the text", b"".join(bytes(t["bytes"]) for t in a).decode(), content(full)[:len("".join(t["token"] for t in a))])
    check("their probabilities sum to less than 1", all(sum(math.exp(x["logprob"]) for x in t["top_logprobs"]) < 1.001 for t in a))
    same("logprobs without top", [len(t["top_logprobs"]) for t in s.chat(max_tokens=2, logprobs=True)["choices"][0]["logprobs"]["content"]], [0, 0])
    end = " ".join(content(full).split()[3:6])
    cut = s.chat(stop=end, logprobs=True)["choices"][0]
    parts = [t["token"] for t in cut["logprobs"]["content"]]
    check("no logprobs for a stop string", "".join(parts).startswith(cut["message"]["content"]) and len("".join(parts[:-1])) < len(cut["message"]["content"]), cut)
    streamed = [json.loads(e) for e in s.stream("/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story about a fox."}],
                "temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 4})[:-1]]
    same("streamed logprobs are the same", [t for e in streamed for c in e["choices"] for t in (c["logprobs"] or {"content": []})["content"]], a)
    old = s.post("/v1/completions", {"prompt": "Once upon", "max_tokens": 5, "temperature": 0, "logprobs": 2})["choices"][0]
    lp = old["logprobs"]
    check("completions' logprobs", [len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [5] * 4
          and "".join(lp["tokens"]) == old["text"] and lp["text_offset"][1] == len(lp["tokens"][0]), old)
    probs = s.post("/completion", {"prompt": "Once upon", "n_predict": 3, "temperature": 0, "n_probs": 2})["completion_probabilities"]
    check("n_probs", len(probs) == 3 and len(probs[0]["top_logprobs"]) == 2 and isinstance(probs[0]["id"], int), probs)


def streams():
    with Server() as s, Server("-c", "1024", model=SLOW) as slow:
        for path, body in (("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story about a cat."}]}), ("/v1/completions", {"prompt": "Once upon"})):
            body.update(temperature=0, max_tokens=60)
            whole = s.post(path, body)["choices"][0]
            events = s.stream(path, body)
            same(path + " ends with [DONE]", events[-1], "[DONE]")
            chunks = [json.loads(e) for e in events[:-1]]
            pieces = [c["choices"][0] for c in chunks]
            chat = "chat" in path
            if chat:
                same("the first delta has the role", pieces[0]["delta"].get("role"), "assistant")
                same("the last delta is empty", pieces[-1]["delta"], {})
            text = "".join(p["delta"].get("content", "") if chat else p["text"] for p in pieces)
            same(path + " streams the same text", text, whole["message"]["content"] if chat else whole["text"])
            same(path + " finish_reason", [p["finish_reason"] for p in pieces if p["finish_reason"]], [whole["finish_reason"]])
            check("every chunk has the id", len({c["id"] for c in chunks}) == 1 and "timings" in chunks[-1])
            check("no usage unasked", all("usage" not in c for c in chunks))
            chunks = [json.loads(e) for e in s.stream(path, {**body, "stream_options": {"include_usage": True}})[:-1]]
            check(path + " usage", chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 60 and chunks[0]["usage"] is None, chunks[-1])
        chunks = [json.loads(e) for e in s.stream("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "n": 3, "max_tokens": 9, "seed": 1})[:-1]]
        same("n: every choice has a role and an end", [sorted(c["choices"][0]["index"] for c in chunks if c["choices"][0][k]) for k in ("finish_reason",)], [[0, 1, 2]])
        events = [json.loads(e) for e in s.stream("/completion", {"prompt": "Once upon", "n_predict": 9, "temperature": 0})]
        check("/completion", [e["stop"] for e in events] == [False] * (len(events) - 1) + [True] and events[-1]["stop_type"] == "limit", events[-1])
        for seed in range(4):                            # random tokens: bytes that are no UTF-8, characters over several tokens
            body = {"prompt": "x", "max_tokens": 150, "temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "ignore_eos": True}
            texts = [json.loads(e)["choices"][0]["text"] for e in slow.stream("/v1/completions", body)[:-1]]
            same("random text, seed %d" % seed, "".join(texts), slow.post("/v1/completions", body)["choices"][0]["text"])
        old = s.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Length: 43\r\n\r\n" + b'{"prompt":"Hi","max_tokens":2,"stream":true}'[:43])
        check("a body that is cut short by its length is refused", b"400" in old.split(b"\r\n")[0], old)
        data = b'{"prompt":"Hi","max_tokens":2,"stream":true}'
        old = s.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        check("HTTP/1.0: no chunks, the end is the connection's", old.endswith(b"data: [DONE]\n\n") and b"chunked" not in old, old)


def texts():
    with Server() as s:
        one = run("generate", "-m", STORIES, "-p", "Once upon a time", "-n", "60", "--temp", "0").stdout.decode()
        a = s.post("/completion", {"prompt": "Once upon a time", "n_predict": 60, "temperature": 0})
        same("the text of generate", a["content"].strip(), one.strip())
        same("its counts", (a["tokens_predicted"], a["stop"], a["prompt"]), (60, True, "Once upon a time"))
        tokens = s.post("/tokenize", {"content": "Once upon a time", "add_special": True})["tokens"]
        same("the tokens of tokenize", " ".join(map(str, tokens)), subprocess.run([BUILD + "/tokenize", STORIES, "--ids"], input=b"Once upon a time",
             capture_output=True).stdout.decode().strip().replace(",", " ").replace("\n", " "))
        b = s.post("/v1/completions", {"prompt": tokens, "max_tokens": 60, "temperature": 0})
        same("a prompt of tokens", b["choices"][0]["text"], a["content"])
        c = s.post("/v1/completions", {"prompt": ["Once upon a time", tokens, "The fox"], "max_tokens": 20, "temperature": 0, "n": 2})
        same("several prompts", [x["text"] for x in c["choices"][:4]], [b["choices"][0]["text"][:len(c["choices"][0]["text"])]] * 4)
        text = "Äpfel & \"Birnen\" \\ \t 漢字 🦊\u0001\u007f\n"
        same("detokenize is the way back", s.post("/detokenize", {"tokens": s.post("/tokenize", {"content": text})["tokens"]})["content"].strip(), text.strip())
        pieces = s.post("/tokenize", {"content": "🦊", "with_pieces": True})["tokens"]
        check("pieces", b"".join(bytes(p["piece"]) if isinstance(p["piece"], list) else p["piece"].encode() for p in pieces).strip() == "🦊".encode(), pieces)
        same("detokenize of nothing", s.post("/detokenize", {"tokens": []}), {"content": ""})


def embeddings():
    with Server() as s:
        text = "The fox had a red kite."
        tokens = s.post("/tokenize", {"content": text, "add_special": True})["tokens"]
        run("logits", STORIES, "--tokens", ",".join(map(str, tokens)), "--embed", "-o", SCRATCH + "/embedding")
        want = [x[0] for x in struct.iter_unpack("<f", open(SCRATCH + "/embedding", "rb").read())]
        a = s.post("/v1/embeddings", {"input": text})
        same("the embedding of logits", a["data"][0]["embedding"], [float("%.9g" % x) for x in want])
        check("of length 1", abs(sum(x * x for x in want) - 1) < 1e-4)
        b = s.post("/v1/embeddings", {"input": [text, "Another.", tokens], "encoding_format": "base64", "model": "x"})
        vectors = [[x[0] for x in struct.iter_unpack("<f", base64.b64decode(d["embedding"], validate=True))] for d in b["data"]]
        same("base64", (vectors[0], vectors[2], [d["index"] for d in b["data"]]), (want, want, [0, 1, 2]))
        check("usage", b["usage"]["prompt_tokens"] > 2 * len(tokens) and vectors[1] != want, b["usage"])
        same("/embedding", s.post("/embedding", {"content": text})[0]["embedding"][0], a["data"][0]["embedding"])
        story = s.chat(max_tokens=40)
        answers = in_parallel([lambda: s.post("/v1/embeddings", {"input": text})["data"][0]["embedding"] == a["data"][0]["embedding"]] * 4 +
                              [lambda: content(s.chat(max_tokens=40)) == content(story)] * 4)
        same("beside chats", answers, [True] * 8)
        for body, name in (({}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"), ({"input": [[99999999]]}, "input"),
                           ({"input": "x", "encoding_format": "hex"}, "encoding_format"), ({"input": "x", "dimensions": 3}, "dimensions")):
            status, headers, answer = s.call("POST", "/v1/embeddings", body)
            check("wrong embeddings: %s" % body, status == 400 and name in answer["error"]["message"], answer)


def errors():
    with Server() as s:
        message = [{"role": "user", "content": "Hi"}]
        wrong = {"temperature": ["x", -1, 1e300, []], "top_p": [2, "1"], "top_k": ["x", 1.5, 1e300], "max_tokens": ["x", -3, 1e20, 2.5], "n": [0, 129, "2"],
                 "stop": [5, [5], ["x"] * 17, "y" * 257, "a\0b"], "seed": ["x", 1e30], "logprobs": [5, "yes"], "top_logprobs": [-1, 21, 3], "stream": [1, "true"],
                 "logit_bias": [5, {"x": 1}, {"99999999": 1}, {"1": "x"}, [[1]], {"-1": 1}], "min_p": [-1], "frequency_penalty": ["x"], "repeat_penalty": [-1],
                 "tools": [[{"type": "function"}]], "response_format": [{"type": "json_object"}, {}, "json"], "grammar": ["root ::= x"], "functions": [[{}]],
                 "messages": [[], {}, "x", [5], [{}], [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": "user", "content": 5}],
                              [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], [{"role": "user", "content": [5]}],
                              [{"role": "user", "content": "a\0b"}]],
                 "ignore_eos": ["x"], "id_slot": [4, -2]}
        for name, values in wrong.items():
            for value in values:
                status, headers, answer = s.call("POST", "/v1/chat/completions", {"messages": message, "max_tokens": 2, name: value})
                e = answer.get("error", {})
                check("%s: %s" % (name, str(value)[:30]), status == 400 and e["code"] == 400 and e["type"] == "invalid_request_error" and e["message"].startswith(name), answer)
        for path, body, name in (("/completion", {}, "prompt"), ("/completion", {"prompt": ["a", "b"]}, "prompt"), ("/completion", {"prompt": []}, "prompt"),
                                 ("/completions", {"prompt": {"a": 1}}, "prompt"), ("/completions", {"prompt": [-1]}, "prompt"), ("/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
                                 ("/completions", {"prompt": "x", "echo": True}, "echo"), ("/completions", {"prompt": "x", "best_of": 3}, "best_of"),
                                 ("/tokenize", {"content": 5}, "content"), ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": ["x"]}, "tokens"),
                                 ("/detokenize", {"tokens": [1e9]}, "tokens")):
            status, headers, answer = s.call("POST", path, body)
            check("%s %s" % (path, body), status == 400 and name in answer["error"]["message"], answer)
        status, headers, answer = s.call("POST", "/completion", {"prompt": "fox " * 300})
        check("a prompt that is too long", status == 400 and "256" in answer["error"]["message"], answer)
        near = s.post("/tokenize", {"content": "fox " * 300, "add_special": True})["tokens"]
        a = s.post("/v1/completions", {"prompt": near[:255], "ignore_eos": True})
        same("a prompt that leaves room for one token", (a["usage"]["completion_tokens"], a["choices"][0]["finish_reason"]), (1, "length"))
        same("and one that leaves none", s.call("POST", "/v1/completions", {"prompt": near[:256]})[0], 400)
        same("and it still works", s.chat(max_tokens=2)["usage"]["completion_tokens"], 2)


def bad_json():
    with Server() as s:
        bodies = {"empty": b"", "garbage": b"\xff\xfe{{{", "half": b'{"messages":[{"role":"us', "a list": b"[]", "a number": b"1", "trailing": b'{"messages":[]} x',
                  "deep": b'{"messages":' + b"[" * 100000 + b"]" * 100000 + b"}", "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid UTF-8": b'{"prompt":"\xc3\x28"}',
                  "overlong": b'{"prompt":"\xc0\xaf"}', "a surrogate": b'{"prompt":"\xed\xa0\x80"}', "a lone surrogate": b'{"prompt":"\\ud800"}', "wrong escape": b'{"prompt":"\\x"}',
                  "NaN": b'{"prompt":"x","temperature":NaN}', "comma": b'{"prompt":"x",}', "NUL": b'{"prompt":"x"}\0', "many brackets": b"[" * 3000000}
        for name, body in bodies.items():
            status, headers, answer = s.call("POST", "/completion", body)
            check("JSON: " + name, status == 400 and answer["error"]["type"] == "invalid_request_error", answer)
        a = s.call("POST", "/completion", b'{"prompt":"\\ud83e\\udd8a \\u00e4","n_predict":1}')
        same("surrogate pairs and escapes", (a[0], a[2]["prompt"]), (200, "🦊 ä"))
        same("Twice the same name: the first", s.post("/completion", b'{"prompt":"a","prompt":"b","n_predict":1}')["prompt"], "a")
        big = json.dumps({"content": "fox and " * 900000}).encode()
        status, headers, answer = s.call("POST", "/tokenize", big)
        check("7 MB of text", status == 200 and len(answer["tokens"]) > 1000000, status)
        same("which is too long for a prompt", s.call("POST", "/completion", json.dumps({"prompt": "fox and " * 900000}).encode())[0], 400)


def bad_http():
    with Server("--timeout", "2") as s:
        def status(data, **how):
            got = s.raw(data, **how)
            return got.split(b" ")[1].decode() if got.startswith(b"HTTP/1.1 ") else got
        ok = b'{"prompt":"x","n_predict":1}'
        requests = {"garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n\n", "400"), "no version": (b"GET /health\r\n\r\n", "400"),
                    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"), "no host": (b"GET /health HTTP/1.1\r\n\r\n", "400"),
                    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"), "a folded line": (b"GET /health HTTP/1.1\r\nHost: x\r\n y: z\r\n\r\n", "400"),
                    "space before colon": (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", "400"), "NUL in a header": (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", "400"),
                    "long path": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "414"), "long header": (b"GET / HTTP/1.1\r\nA: " + b"a" * 40000, "431"),
                    "negative length": (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"),
                    "huge length": (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", "400"),
                    "large length": (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", "413"),
                    "two lengths": (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "400"),
                    "length and chunks": (b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
                    "unknown coding": (b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
                    "wrong chunk": (b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400"),
                    "wrong chunk end": (b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "400"),
                    "a NUL in the path": (b"GET /health%00 HTTP/1.1\r\nHost: x\r\n\r\n", "400"), "unknown method": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
                    "half a head": (b"POST /completion HTTP/1.1\r\nHo", "408"), "half a body": (head(100, "/completion") + b"{", "408"),
                    "half a chunked body": (b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "408"),
                    "10 MB body": (head(10 << 20, "/completion") + b" " * (10 << 20), "413"),
                    "10 MB in chunks": (b"POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 160, "413")}
        results = in_parallel([lambda v=v: status(v[0]) for v in requests.values()])
        for (name, v), got in zip(requests.items(), results):
            same("HTTP: " + name, got, v[1])
        chunked = b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n" + ok[:5] + b"\r\n" + b"%X\r\n" % (len(ok) - 5) + ok[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n"
        same("a chunked body", status(chunked), "200")
        c = s.connect()
        for byte in range(0, len(chunked), 7):           # in small pieces
            c.sendall(chunked[byte:byte + 7])
            time.sleep(0.002)
        check("in small pieces", c.recv(100).startswith(b"HTTP/1.1 200"))
        c.close()
        got = s.raw(head(len(ok), "/completion") + ok + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        same("pipelined requests are answered in order", re.findall(rb"HTTP/1.1 (\d+)", got), [b"200"] * 4 + [b"404"])
        same("lines that end with LF alone, an empty line before", status(b"\r\nGET /health HTTP/1.1\nHost: x\nConnection: close\n\n"), "200")
        same("an absolute target", status(b"GET http://x/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "200")
        got = s.raw(head(len(ok), "/completion", "Expect: 100-continue\r\nConnection: close\r\n") + ok)
        check("Expect: 100-continue", got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), got)
        start = time.time()
        same("an idle connection is closed without a word", (s.raw(b""), 1 < time.time() - start < 10), (b"", True))
        slow_loris(s)


def slow_loris(s):
    """200 connections that send a byte now and then; meanwhile the server works."""
    lot = [s.connect() for _ in range(200)]
    done = threading.Event()

    def trickle():
        while not done.is_set():
            for c in lot:
                try:
                    c.sendall(b"X")
                except OSError:
                    pass
            time.sleep(0.3)
    t = threading.Thread(target=trickle)
    t.start()
    slowest = 0
    for _ in range(50):
        start = time.time()
        status = s.call("GET", "/health")[0]
        slowest = max(slowest, time.time() - start)
        time.sleep(0.05)
    check("health beside 200 slow clients", status == 200 and slowest < (2 if SANITIZED else 0.5), slowest)
    same("and text", s.chat(max_tokens=3)["usage"]["completion_tokens"], 3)
    time.sleep(1.5)
    done.set()
    t.join()
    answers = []
    for c in lot:
        c.settimeout(5)
        try:
            answers.append(c.recv(100)[:12])
        except OSError:
            answers.append(b"")
        c.close()
    check("they are all shown the door", all(a in (b"HTTP/1.1 408", b"") for a in answers) and answers.count(b"HTTP/1.1 408") > 100, answers[:5])


def many_large():
    """40 clients that each hold back the end of 8 MB, and others that don't read their answers."""
    with Server() as s:
        lot = [s.connect() for _ in range(40)]
        refused = 0
        for c in lot:
            c.settimeout(30)
            try:
                c.sendall(head(8 << 20, "/completion") + b" " * ((8 << 20) - 1))
            except ConnectionError:
                refused += 1
        for c in lot:
            c.setblocking(False)
            try:
                refused += b"HTTP/1.1 503" in c.recv(100)
            except (BlockingIOError, ConnectionError):
                pass
        check("their memory is bounded", 4 < refused < 36, refused)
        same("small requests go on", (s.call("GET", "/health")[0], s.chat(max_tokens=3)["usage"]["completion_tokens"]), (200, 3))
        for c in lot:
            c.close()
        check("and large ones again", s.until(lambda: s.call("POST", "/tokenize", {"content": "x" * 7000000})[0] == 200, 20))


def together():
    with Server("-np", "8") as s:
        asked = ["Tell me a story about a %s." % animal for animal in "fox cat dog hen bear frog mouse owl".split()]
        how = {"temperature": 0.8, "max_tokens": 80}
        alone = [content(s.chat(q, seed=i, cache_prompt=False, **how)) for i, q in enumerate(asked)]
        check("8 different texts", len(set(alone)) == 8)
        for _ in range(3):
            same("8 at once: each as alone", in_parallel([lambda i=i, q=q: content(s.chat(q, seed=i, **how)) for i, q in enumerate(asked)]), alone)
        many = in_parallel([lambda i=i: content(s.chat(asked[i % 8], seed=i % 8, **how)) for i in range(64)])
        same("64 at once", many, alone * 8)
        streamed = in_parallel([lambda i=i, q=q: "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in s.stream(
            "/chat/completions", {"messages": [{"role": "user", "content": q}], "seed": i, **how})[:-1]) for i, q in enumerate(asked)])
        same("8 streams at once", streamed, alone)
        check("they shared passes", s.metric("llamacpp:n_busy_slots_per_decode") > 1.2, s.metric("llamacpp:n_busy_slots_per_decode"))


def prefixes():
    with Server() as s:
        q = "Tell me a story about a fox."
        first = s.chat(q, max_tokens=40)
        again = s.chat(q, max_tokens=40)
        n = first["usage"]["prompt_tokens"]
        same("the prompt is found in a slot", (again["timings"]["cache_n"], again["timings"]["prompt_n"], again["usage"]["prompt_tokens_details"]["cached_tokens"]), (n - 1, 1, n - 1))
        same("and the text is the same", content(again), content(first))
        none = s.chat(q, max_tokens=40, cache_prompt=False)
        same("cache_prompt false", (none["timings"]["cache_n"], content(none)), (0, content(first)))
        talk = [{"role": "user", "content": q}, {"role": "assistant", "content": content(first)}, {"role": "user", "content": "What was it called?"}]
        body = {"messages": talk, "temperature": 0, "max_tokens": 10}
        second = s.post("/chat/completions", body)
        check("a conversation goes on where it was", second["timings"]["cache_n"] >= n - 2, second["timings"])
        same("with the same answer as from the start", content(s.post("/chat/completions", {**body, "cache_prompt": False})), content(second))
        a = s.post("/completion", {"prompt": "Once upon a time there was", "n_predict": 30, "temperature": 0, "return_tokens": True})
        whole = s.post("/tokenize", {"content": "Once upon a time there was", "add_special": True})["tokens"] + a["tokens"]
        b = s.post("/completion", {"prompt": whole, "n_predict": 30, "temperature": 0})
        same("all that was generated is there, but the last token", (b["timings"]["cache_n"], b["id_slot"]), (len(whole) - 1, a["id_slot"]))
        c = s.post("/completion", {"prompt": "The", "n_predict": 3})
        check("another text takes another slot", c["id_slot"] != b["id_slot"], c)
    with Server("-np", "3") as s:
        # Two conversations that begin alike: each keeps its slot, and the second begins with a copy of the first one's.
        alike = "Once upon a time there was a little fox who lived in the forest with its mother. One day the fox"
        ask = lambda end, **how: s.post("/completion", {"prompt": alike + end, "n_predict": 4, "temperature": 0, **how})
        one, two = ask(" found a red ball under a tree."), ask(" saw a bird with a blue wing.")
        check("a text that begins like another takes a slot of its own", two["id_slot"] != one["id_slot"], two["id_slot"])
        check("and a copy of the beginning", two["timings"]["cache_n"] > 15, two["timings"])
        same("with the same answer as from the start", ask(" saw a bird with a blue wing.", cache_prompt=False)["content"], two["content"])
        back = ask(" found a red ball under a tree. It was happy")
        check("the first one is still there", back["id_slot"] == one["id_slot"] and back["timings"]["cache_n"] > two["timings"]["cache_n"] + 5, back["timings"])


def saved_slots():
    os.mkdir(SCRATCH + "/slots")
    story = {"prompt": "Once upon a time there was a fox", "n_predict": 30, "temperature": 0, "id_slot": 1}
    with Server("--slot-save-path", SCRATCH + "/slots") as s:
        a = s.post("/completion", story)
        saved = s.post("/slots/1?action=save", {"filename": "fox.bin"})
        check("save", saved["n_saved"] > 30 and saved["n_written"] == os.path.getsize(SCRATCH + "/slots/fox.bin"), saved)
        same("erase", s.post("/slots/1?action=erase", {})["n_erased"], saved["n_saved"])
        same("nothing is left", s.call("GET", "/slots")[2][1]["n_past"], 0)
        for name in "../x", "/etc/passwd", "", ".hidden", "a/b", 5, None, "x" * 300:
            for action in "save", "restore":
                same("%s as %r" % (action, name), s.call("POST", "/slots/1?action=" + action, {"filename": name})[0], 400)
        for path in "/slots/9?action=save", "/slots/x?action=save", "/slots/1?action=eat", "/slots/1", "/slots/-1?action=save":
            same(path, s.call("POST", path, {"filename": "x"})[0], 400)
        same("a file that is not there", s.call("POST", "/slots/1?action=restore", {"filename": "no"})[0], 400)
        open(SCRATCH + "/slots/bad.bin", "wb").write(open(SCRATCH + "/slots/fox.bin", "rb").read()[:-1] + b"x")
        status, headers, answer = s.call("POST", "/slots/1?action=restore", {"filename": "bad.bin"})
        check("a damaged file", status == 400 and "damaged" in answer["error"]["message"], answer)
    with Server("--slot-save-path", SCRATCH + "/slots") as s:
        restored = s.post("/slots/2?action=restore", {"filename": "fox.bin"})
        same("restore in another process", restored["n_restored"], saved["n_saved"])
        b = s.post("/completion", {**story, "id_slot": -1})
        check("it is found there, with the same text", b["timings"]["cache_n"] > 5 and b["id_slot"] == 2 and b["content"] == a["content"], b)
        same("nothing half-written lies about", sorted(os.listdir(SCRATCH + "/slots")), ["bad.bin", "fox.bin"])
    with Server() as s:
        same("without --slot-save-path", s.call("POST", "/slots/1?action=save", {"filename": "x"})[0], 501)


MANY = 200 if "thread" in BUILD else 2000 if SANITIZED else 4000      # tokens: some seconds
LONG = {"prompt": "x", "n_predict": MANY, "ignore_eos": True, "temperature": 1}


def hang_up(s, body):
    """Starts to read a stream, then goes away."""
    c = s.connect()
    data = json.dumps({**body, "stream": True}).encode()
    c.sendall(head(len(data), "/completion") + data)
    c.recv(1000)
    c.close()


def busy():
    with Server("-np", "1", "--queue", "2", model=SLOW) as s:
        start = threading.Thread(target=lambda: hang_up(s, LONG))
        start.start()
        start.join()
        check("a client that hangs up stops its generation", s.until(lambda: s.busy() == 0, 10) and "status=499" in s.logged(), s.logged())
        results, c = [], [s.connect() for _ in range(5)]
        data = json.dumps({**LONG, "n_predict": MANY * 3 // 8}).encode()
        for one in c:
            one.sendall(head(len(data), "/completion") + data)
            time.sleep(0.1)
        one = c[-1].recv(65536)
        check("a full queue", one.startswith(b"HTTP/1.1 503") and b"Retry-After: 1\r\n" in one and b"unavailable_error" in one, one)
        slowest = 0
        for _ in range(40):
            t = time.time()
            assert s.call("GET", "/health")[0] == 200
            slowest = max(slowest, time.time() - t)
        check("health while the engine works", slowest < (2 if SANITIZED else 0.2), slowest)
        check("those that wait are counted", s.metric("llamacpp:requests_deferred") in (1, 2) and s.metric("bitnet:requests_refused_total") > 0)
        c[1].close()                                     # one that waits
        c[0].close()                                     # the one that runs
        answer = c[2].recv(65536)
        check("the queue moves up", answer.startswith(b"HTTP/1.1 200"), answer[:100])
        for one in c:
            one.close()
        check("all slots are free in the end", s.until(lambda: s.busy() == 0, 20))
    with Server("-np", "1") as s:                        # what comes at once, too, has its turn in order
        lot = [s.connect() for _ in range(8)]
        time.sleep(0.1)
        s.process.send_signal(signal.SIGSTOP)
        data = json.dumps({"prompt": "x", "n_predict": 1}).encode()
        for c in lot:
            c.sendall(head(len(data), "/completion") + data)
        s.process.send_signal(signal.SIGCONT)
        for c in lot:
            c.recv(65536)
        s.until(lambda: s.logged().count("path=/completion") == 8)
        served = re.findall(r"client=127.0.0.1:(\d+) path=/completion", s.logged())
        same("first come, first served", served, [str(c.getsockname()[1]) for c in lot])
        for c in lot:
            c.close()
    # The slot of one that hung up goes to the next in the middle of a pass: a long one, of 512 tokens of its prompt, that goes on
    # for the sake of the other slot.
    with Server("-np", "2", "-c", "8192", "-b", "512", model=SLOW) as s:
        beside = threading.Thread(target=lambda: s.post("/completion", {**LONG, "id_slot": 0}))
        beside.start()
        tokens = s.post("/tokenize", {"content": "fox " * 3000})["tokens"][:3500]
        data = json.dumps({**LONG, "prompt": tokens, "cache_prompt": False, "id_slot": 1, "stream": True}).encode()
        got = []
        for i in range(10):
            c = s.connect()
            c.sendall(head(len(data), "/completion") + data)
            c.recv(1000)
            next_one = threading.Thread(target=lambda: got.append(s.call("POST", "/completion", {"prompt": "y", "n_predict": 2, "id_slot": 1})[0]))
            next_one.start()
            time.sleep(0.02)
            c.close()
            next_one.join()
        same("a slot in the middle of a pass", got, [200] * 10)
        beside.join()
    with Server("-np", "1", "--request-timeout", "1", model=SLOW) as s:
        slow = in_parallel([lambda: s.call("POST", "/completion", {**LONG, "n_predict": -1, "stop": "no such thing in it"}), lambda: s.call("POST", "/completion", LONG)])
        check("--request-timeout", all(r[0] == 504 and "timeout" in r[2]["error"]["message"] or r[0] == 200 for r in slow) and any(r[0] == 504 for r in slow), slow)
    with Server("-np", "2", "--timeout", "1", model=SLOW) as s:
        c = s.connect()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        data = json.dumps({**LONG, "stream": True, "n_probs": 20}).encode()
        c.sendall(head(len(data), "/completion") + data)
        check("a client that does not read is left", s.until(lambda: "status=" in s.logged(), 60), s.logged())
        c.close()


def keys():
    with Server("--api-key", "secret-key") as s:
        same("health is open", s.call("GET", "/health")[0], 200)
        for path in "/v1/models", "/props", "/slots", "/metrics":
            same("no key: GET " + path, s.call("GET", path)[0], 401)
        for key in "", "x", "secret-kex", "secret-key2", "secret-ke", "Secret-key", "x" * 1000:
            status, headers, answer = s.call("POST", "/v1/completions", {"prompt": "x"}, {"Authorization": "Bearer " + key} if key else {})
            check("wrong key %.12r" % key, status == 401 and answer["error"]["type"] == "authentication_error" and "secret" not in json.dumps(answer), answer)
        for headers in {"Authorization": "Bearer secret-key"}, {"authorization": "bearer secret-key"}, {"X-Api-Key": "secret-key"}:
            same("right key: %s" % list(headers), s.call("GET", "/v1/models", headers=headers)[0], 200)
        same("preflight needs none", s.call("OPTIONS", "/v1/models")[0], 204)
    path = os.path.join(SCRATCH, "key.txt")
    for text, ok in ("key in a file\r\nmore\n", True), ("\nkey\n", False), ("", False):
        open(path, "w").write(text)
        if not ok:
            r = subprocess.run([BUILD + "/server", "-m", ROOT + "/examples/stories.gguf", "--port", "0", "--api-key-file", path], capture_output=True, text=True, timeout=20)
            check("a file without a key is refused", r.returncode == 1 and "first line is empty" in r.stderr, r)
            continue
        with Server("--api-key-file", path) as s:
            same("the file's first line is the key", [s.call("GET", "/props", headers={"Authorization": "Bearer " + k})[0]
                                                      for k in ("key in a file", "key", "more")], [200, 401, 401])
            same("ps does not show it", b"key in a" in open("/proc/%d/cmdline" % s.process.pid, "rb").read(), False)


def several_models():
    with Server("-m", SLOW, "--idle-unload", "1") as s:
        same("two models", [m["id"] for m in s.call("GET", "/v1/models")[2]["data"]], ["stories", "slow"])
        check("none is loaded yet", "event=load" not in s.logged())
        a = s.chat(max_tokens=4)
        same("without a name: the first", a["model"], "stories")
        same("by name", s.chat(max_tokens=4, model="slow")["model"], "slow")
        same("by file name", s.chat(max_tokens=4, model="slow.gguf")["model"], "slow")
        status, headers, answer = s.call("POST", "/v1/completions", {"prompt": "x", "model": "gpt-4"})
        same("an unknown name", (status, answer["error"]["type"]), (404, "not_found_error"))
        check("idle models are unloaded", s.until(lambda: s.logged().count("event=unload") == 2, 10), s.logged())
        both = in_parallel([lambda: content(s.chat(max_tokens=20)), lambda: s.chat(max_tokens=20, model="slow")["model"]] * 3)
        same("both again, at once", (both[0][:4], both[1]), ("Once", "slow"))
    os.mkdir(SCRATCH + "/models")
    os.symlink(STORIES, SCRATCH + "/models/tales.gguf")
    open(SCRATCH + "/models/broken.gguf", "w").write("GGUF")
    with Server("--models-dir", SCRATCH + "/models", model=None) as s:
        same("a folder", ([m["id"] for m in s.call("GET", "/v1/models")[2]["data"]], s.chat(max_tokens=2, model="anything")["model"]), (["tales"], "tales"))


def beside_a_stream(s, act):
    """(what act() gives, its seconds, pieces of a stream that came meanwhile, the largest gap between them)"""
    c = s.connect()
    data = json.dumps({**LONG, "n_predict": 4000, "stream": True, "model": "slow"}).encode()
    c.sendall(head(len(data), "/completion") + data)
    c.recv(1000)
    times, over = [], []

    def read():
        while not over and c.recv(65536):
            times.append(time.time())
    reader = threading.Thread(target=read)
    reader.start()
    start = time.time()
    result = act()
    end = time.time()
    over.append(True)
    reader.join()
    c.close()
    pieces = [t for t in times if start < t < end]
    return result, end - start, len(pieces), max(b - a for a, b in zip([start] + pieces, pieces + [end]))


def loading():
    """One model is loaded while another streams; big.gguf takes most of a second for that. Likewise a large body is read."""
    big = SCRATCH + "/big.gguf"
    run("synth", "--shape", "large", "--layers", "4" if SANITIZED else "48", "--seed", "1", "-o", big)
    ask = {"prompt": "y", "max_tokens": 1, "model": "big"}
    with Server("-m", big, "--idle-unload", "1", model=SLOW) as s:
        answers, seconds, n, gap = beside_a_stream(s, lambda: in_parallel([lambda: s.call("POST", "/v1/completions", ask)[0]] * 3))
        check("a stream goes on while another model is loaded", n > 5 and gap < seconds / 2, (n, gap, seconds))
        same("three requests wait for one load", (answers, s.logged().count("event=load model=big")), ([200] * 3, 1))
        check("and idle models are unloaded", s.until(lambda: s.logged().count("event=unload") == 2, 20), s.logged())
        text = json.dumps({"content": "The fox. " * 700000}).encode()
        answer, seconds, n, gap = beside_a_stream(s, lambda: s.call("POST", "/tokenize", text, raw=True)[2])
        tokens = len(json.loads(answer)["tokens"])
        check("a stream goes on while a large body is read", tokens > 700000 and n > 5 and gap < seconds / 2, (tokens, n, gap, seconds))
        two = in_parallel([lambda: len(s.post("/tokenize", text)["tokens"]), lambda: s.call("POST", "/completion", text.replace(b"content", b"prompt"))[0]] * 2)
        same("several at once", two, [tokens, 400] * 2)
    s = Server("-m", big, model=SLOW)
    lot = [s.connect() for _ in range(2)]
    data = json.dumps(ask).encode()
    for c in lot:
        c.sendall(head(len(data), "/completion") + data)
    time.sleep(0.1)
    status, seconds = s.stop()
    same("SIGTERM while a model is loaded", (status, seconds < (10 if SANITIZED else 1), [c.recv(1000)[:12] for c in lot]), (0, True, [b"HTTP/1.1 503"] * 2))
    check("that load was given up, or cut short by the end", "event=load model=big failed" in s.logged() or seconds > 0.8, s.logged()[-500:])
    for c in lot:
        c.close()
    with Server(model=big, wait=False) as s:
        same("the only model is still being loaded", [s.call("GET", "/health")[0], s.call("POST", "/completion", ask)[0]], [503, 503])
    os.remove(big)
    os.symlink(STORIES, big)
    with Server("-m", big) as s:
        os.remove(big)
        open(big, "wb").write(open(STORIES, "rb").read()[:300000])
        failures = in_parallel([lambda: s.call("POST", "/v1/completions", ask)] * 3)
        check("a load that fails: all who wait hear why", all(f[0] == 500 and "big" in f[2]["error"]["message"] for f in failures), failures)
        os.remove(big)
        os.symlink(STORIES, big)
        same("it is tried again", (s.call("POST", "/v1/completions", ask)[0], s.chat(max_tokens=1)["model"]), (200, "stories"))


def pipes():
    """Nobody reads stdout and stderr."""
    s = Server("-v", stderr=subprocess.PIPE)
    c = HTTPConnection("127.0.0.1", s.port, timeout=60)
    ok = 0
    for i in range(1000):
        c.request("POST", "/v1/completions", json.dumps({"prompt": "Hi", "max_tokens": 2, "user": "x" * 100}), {"X-Filler": "y" * 100})
        r = c.getresponse()
        ok += r.status == 200 and b"choices" in r.read()
    same("1,000 requests with undrained pipes, on one connection", ok, 1000)
    check("log lines were dropped, and counted", s.metric("bitnet:log_lines_dropped_total") > 100, s.metric("bitnet:log_lines_dropped_total"))
    status, seconds = s.stop()
    check("and SIGTERM", status == 0 and seconds < (10 if SANITIZED else 1), (status, seconds))
    s.process.stderr.close()
    with Server("--log-disable") as s:
        s.chat(max_tokens=1)
        same("--log-disable", s.logged(), "")


def signals():
    for number in signal.SIGTERM, signal.SIGINT:
        s = Server("-np", "2", model=SLOW)
        c = [s.connect() for _ in range(4)]
        data = json.dumps({**LONG, "stream": True}).encode()
        for one in c[:3]:                                # two run, one waits
            one.sendall(head(len(data), "/completion") + data)
        c[0].recv(1000)
        status, seconds = s.stop(number)
        same("signal %d in the middle of generations" % number, (status, seconds < (10 if SANITIZED else 1)), (0, True))
        text = b""
        try:
            while piece := c[0].recv(65536):
                text += piece
        except OSError:
            pass
        check("the stream ends with a reason", b"shutting down" in text or b'"stop":true' in text, text[-300:])
        for one in c:
            one.close()
    s = Server()
    c = s.connect()
    data = json.dumps({"prompt": "Once upon", "n_predict": 5 if SANITIZED else 200}).encode()
    c.sendall(head(len(data), "/completion") + data)
    time.sleep(0.01)
    s.process.send_signal(signal.SIGTERM)
    check("a request that nearly has its answer gets it", b"200 OK" in c.recv(100))
    c.close()
    same("exit status", s.process.wait(10), 0)
    s.process.stdout.close()


SECTIONS = [command_line, routes, chat, streams, texts, embeddings, errors, bad_json, bad_http, many_large, together, prefixes, saved_slots, busy, keys,
            several_models, loading, pipes, signals]
if __name__ == "__main__":           # server_soak.py uses what is above
    for section in SECTIONS:
        if ONLY and section.__name__ not in ONLY:
            continue
        print("# " + section.__name__, flush=True)
        try:
            section()
        except Exception as e:
            import traceback
            check(section.__name__ + " runs to its end", False, traceback.format_exc()[-1200:])
    sys.exit(failed > 0)
