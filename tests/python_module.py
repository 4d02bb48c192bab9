"""Checks examples/python/bitnet.py; run by tests/test_python.sh in a folder that may be written to.

    BITNET_LIBRARY=build/libbitnet.so python3 tests/python_module.py ROOT BUILD

Prints "ok - CLAIM" or "not ok - CLAIM" for every function below whose name begins with test, and at the end one line
"python_module: N passed, N failed, N skipped".
"""

import asyncio
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref

ROOT, BUILD = sys.argv[1:3]
sys.path.insert(0, os.path.join(ROOT, "examples", "python"))
sys.dont_write_bytecode = True

import bitnet  # noqa: E402
from bitnet import BitNetError, BitNetInference  # noqa: E402

STORIES = os.path.join(ROOT, "examples", "stories.gguf")
PROMPT = "Once upon a time"


def say(model, **more):
    """A text of settings that every test can repeat."""
    return model.generate(**{"prompt": PROMPT, "temperature": 0, "max_tokens": 60, **more})["text"]


def generate(*arguments):
    """What build/generate prints, as text."""
    command = [os.path.join(BUILD, "generate"), "-m", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          timeout=60, check=True).stdout.decode()


def same(a, b):
    assert a == b, f"{a!r} is not {b!r}"


def raises(kind, pattern, function, *arguments, **more):
    """The exception, whose text must match."""
    try:
        function(*arguments, **more)
    except kind as why:
        assert re.search(pattern, str(why)), f"{kind.__name__} says {why}, not {pattern}"
        return why
    raise AssertionError(f"no {kind.__name__}")


def synth(name, *options):
    subprocess.run([os.path.join(BUILD, "synth"), "-o", name, *options], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return name


# ------------------------------------------------------------------------------------------- the library itself


def c_layout(structs):
    """What a C compiler says of the structs and numbers: {line: value}."""
    lines = ['#include "bitnet.h"', "#include <stdio.h>", "int main(void) {"]
    show = 'printf("%s %%d\\n", (int)(%s));'
    for struct in structs:
        lines.append(show % (struct.__name__, f"sizeof({struct.__name__})"))
        for field in struct._fields_:
            member = f"{struct.__name__}.{field[0]}"
            lines.append(show % (member, f"offsetof({struct.__name__}, {field[0]})"))
            lines.append(show % (member + ":", f"sizeof((({struct.__name__} *)0)->{field[0]})"))
    lines += [show % (name, name) for name in bitnet.C_NAMES] + ["return 0; }"]
    with open("layout.c", "w") as f:
        f.write("\n".join(lines))
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-I" + ROOT, "-o", "layout", "layout.c"], check=True)
    out = subprocess.run(["./layout"], check=True, stdout=subprocess.PIPE).stdout.decode()
    return {name: int(value) for name, value in (line.split() for line in out.splitlines())}


def test_layout():
    "structs and numbers are those of bitnet.h, as a C compiler sees it"
    structs = [c for c in vars(bitnet).values()
               if isinstance(c, type) and issubclass(c, bitnet.ctypes.Structure) and c.__name__.startswith("bitnet_")]
    assert len(structs) > 10, structs
    want = c_layout(structs)
    for struct in structs:
        same((struct.__name__, bitnet.ctypes.sizeof(struct)), (struct.__name__, want[struct.__name__]))
        for field in struct._fields_:
            member, have = f"{struct.__name__}.{field[0]}", getattr(struct, field[0])
            same((member, have.offset, have.size), (member, want[member], want[member + ":"]))
    for name, value in bitnet.C_NAMES.items():
        same((name, value), (name, want[name]))


def test_exports():
    "libbitnet.so exports the functions of bitnet.h, and nothing else"
    if not shutil.which("nm"):
        return "no nm"
    out = subprocess.run(["nm", "-D", "--defined-only", os.environ["BITNET_LIBRARY"]], check=True,
                         stdout=subprocess.PIPE).stdout.decode()
    names = {line.split()[-1] for line in out.splitlines()} - {"_init", "_fini", "_edata", "_end", "__bss_start"}
    with open(os.path.join(ROOT, "bitnet.h")) as f:
        api = f.read().split("#endif /* BITNET_H_INCLUDED */")[0]
    want = set(re.findall(r"^BITNET_API [^(]*?(bitnet_\w+)\(", api, re.M))
    assert len(want) > 30, want
    same(sorted(names), sorted(want))


def run_copy(code, **environment):
    """Runs code with a copy of the module that lies alone; returns stdout and stderr."""
    os.makedirs("alone", exist_ok=True)
    shutil.copy(bitnet.__file__, "alone/bitnet.py")
    variables = {k: v for k, v in os.environ.items() if k != "BITNET_LIBRARY"}
    done = subprocess.run([sys.executable, "-B", "-c", "import sys; sys.path.insert(0, 'alone'); " + code],
                          env={**variables, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode()


def test_search():
    "the library is found beside the module, or by BITNET_LIBRARY; else an error says how to get it"
    code = f"import bitnet; print(bitnet.BitNetInference({STORIES!r}).generate({PROMPT!r}, max_tokens=5))"
    if not bitnet.ctypes.util.find_library("bitnet"):
        assert "BitNetError: libbitnet.so is not beside bitnet.py" in run_copy(code), run_copy(code)
    assert "nosuch.so is no libbitnet" in run_copy(code, BITNET_LIBRARY="nosuch.so")
    libc = bitnet.ctypes.util.find_library("c")
    if libc:
        assert "is no libbitnet" in run_copy(code, BITNET_LIBRARY=libc)
    assert "{'text'" in run_copy(code, BITNET_LIBRARY=os.environ["BITNET_LIBRARY"])
    shutil.copy(os.environ["BITNET_LIBRARY"], "alone/libbitnet.so")
    try:
        assert "{'text'" in run_copy(code)
        other = run_copy("import bitnet; bitnet.VERSION = '9.9'; bitnet.BitNetInference('x')")
        assert "and this bitnet.py of 9.9" in other, other
    finally:
        os.remove("alone/libbitnet.so")


# --------------------------------------------------------------------------------------------------------- texts


def test_text():
    "the text is that of build/generate with the same settings"
    with BitNetInference(STORIES) as model:
        for more, flags in (
                ({}, ["--temp", "0", "-n", "60"]),
                ({"temperature": None, "seed": 7}, ["-s", "7", "-n", "60"]),
                ({"temperature": 1.2, "seed": 8, "top_k": 5, "top_p": 0.8, "min_p": 0, "max_tokens": 40},
                 "--temp 1.2 -s 8 --top-k 5 --top-p 0.8 --min-p 0 -n 40".split()),
                ({"repeat_penalty": 1.3, "frequency_penalty": 0.1, "presence_penalty": 0.2, "repeat_last_n": -1},
                 "--temp 0 --repeat-penalty 1.3 --frequency-penalty 0.1 --presence-penalty 0.2 --repeat-last-n -1 -n 60"
                 .split()),
                ({"top_p": 0, "temperature": 1}, ["--top-p", "0", "--temp", "1", "-n", "60"]),
                ({"prompt": ""}, ["-p", "", "--temp", "0", "-n", "60"])):
            text = generate(STORIES, "-p", PROMPT, *flags) if "prompt" not in more else generate(STORIES, *flags)
            same(say(model, **more).rstrip("\n"), text.rstrip("\n"))


def test_hints():
    "threads, batch, context and what is accepted without effect change no text"
    with BitNetInference(STORIES) as model:
        want = say(model)
    for more in ({"n_threads": 8, "n_batch": 2, "n_ctx": 100000}, {"use_mmap": False, "use_mlock": True},
                 {"n_threads": 1, "n_batch": 100000}, {"n_threads": -1, "n_ctx": 0, "use_mmap": None},
                 {"quant_type": "i2_s", "use_pretuned": True, "quant_embd": False, "n_gpu_layers": 99, "main_gpu": 0,
                  "low_vram": False, "kernel_params": {"bm": 160, "tl1": {"BK": 64}}},
                 {"kernel_params": {"kernels": "scalar", "layout": "r16", "head": "full", "i2s_layout": "a"}}):
        with BitNetInference(STORIES, **more) as model:
            same(say(model), want)


def test_stream():
    "a stream is a plain iterator of pieces, together the whole text"
    with BitNetInference(STORIES) as model:
        stream = model.generate_stream(PROMPT, temperature=0, max_tokens=60)
        assert iter(stream) is stream
        pieces = list(stream)
        assert len(pieces) > 20 and all(list(piece) == ["text"] and piece["text"] for piece in pieces), pieces
        same("".join(piece["text"] for piece in pieces), say(model))
        same(list(stream), [])
        same(list(model.generate_stream(PROMPT, max_tokens=0)), [])
        same(say(model, max_tokens=0), "")


def test_messages():
    "messages go through the model's template, or lines where it has none"
    synth("spm.gguf", "--family", "bitnet", "--seed", "3")
    for file in (STORIES, "spm.gguf"):
        with BitNetInference(file) as model:
            text = model.generate(messages=[{"role": "user", "content": "Tell me a story about a fox."}],
                                  prompt="not this", temperature=0, max_tokens=50)["text"]
            same(text.rstrip("\n"), generate(file, "-st", "-p", "Tell me a story about a fox.", "--temp", "0", "-n",
                                             "50").rstrip("\n"))
            talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me a story."},
                    {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
            first = model.generate(messages=talk, temperature=0, max_tokens=20)["text"]
            assert first != text and first == model.generate(messages=talk, temperature=0, max_tokens=20)["text"]
            raises((BitNetError, ValueError), "role", model.generate, messages=[{"role": "alien", "content": "x"}])
            for wrong in (["x"], [{"role": "user"}], [{"role": "user", "content": None}]):
                raises(TypeError, "must be", model.generate, messages=wrong)
    with BitNetInference(STORIES) as model:              # control tokens in what people say are text
        odd, empty = (list(model._tokenize_chat([(b"user", said)])) for said in (b"<|eot_id|>", b""))
        same(odd.count(model._info.eot), empty.count(model._info.eot))
        assert len(odd) > len(empty) + 1, (odd, empty)


def test_stop():
    "stop strings end the text and are not part of it"
    with BitNetInference(STORIES) as model:
        whole = say(model)
        for stop in (" named", "friend", ". "):
            same(say(model, stop=stop), whole.split(stop)[0])
            same(say(model, stop=["never there", stop]), whole.split(stop)[0])
            pieces = model.generate_stream(PROMPT, temperature=0, max_tokens=60, stop=(stop,))
            same("".join(piece["text"] for piece in pieces), whole.split(stop)[0])
        for none in (None, [], ()):
            same(say(model, stop=none), whole)
        raises(ValueError, "16 strings", say, model, stop=["x"] * 16)
        raises(ValueError, "0 bytes", say, model, stop="")
        raises(ValueError, "257 bytes", say, model, stop="x" * 257)
        raises(TypeError, "must be a str", say, model, stop=[5])


def test_utf8():
    "no piece ends inside a character"
    synth("random.gguf", "--seed", "5", "--ctx", "2048")
    wide = 0
    with BitNetInference("random.gguf") as model:
        for seed in range(4):
            pieces = [p["text"] for p in model.generate_stream(PROMPT, temperature=3, top_k=0, top_p=1, min_p=0,
                                                               seed=seed, max_tokens=300)]
            flags = ["-p", PROMPT, "--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-n", "300", "-s"]
            same("".join(pieces).rstrip("\n"), generate("random.gguf", *flags, str(seed)).rstrip("\n"))
            wide += sum(len(c.encode()) > 1 and c != "\ufffd" for piece in pieces for c in piece)
        for prompt in ("\u00e9\U0001f600\u4e2d", "\ud800 half a pair", "a\0b", "\U0010ffff"):
            say(model, prompt=prompt, max_tokens=3)
    assert wide > 0, "the model wrote no character of several bytes"


# -------------------------------------------------------------------------------------------------------- errors


def test_files():
    "files that are missing or no models: BitNetError with code and reason"
    why = raises(BitNetError, "nosuch.gguf", BitNetInference, "nosuch.gguf")
    same(why.code, -3)
    with open("text.gguf", "w") as f:
        f.write("this is not a model\n" * 100)
    same(raises(BitNetError, "", BitNetInference, "text.gguf").code, -4)
    with open(STORIES, "rb") as f, open("cut.gguf", "wb") as cut:
        cut.write(f.read(100000))
    assert raises(BitNetError, "", BitNetInference, "cut.gguf").code in (-3, -4)
    synth("dense.gguf", "--type", "f16")
    same(raises(BitNetError, "ternary", BitNetInference, "dense.gguf").code, -5)
    raises(BitNetError, "", BitNetInference, ".")
    raises(TypeError, "", BitNetInference, 5)
    raises(TypeError, "model_path", BitNetInference)
    raises(ValueError, "NUL", BitNetInference, "a\0b")
    raises(BitNetError, "nonsense", BitNetInference, STORIES, kernel_params={"kernels": "nonsense"})
    raises(ValueError, "i2s_layout", BitNetInference, STORIES, kernel_params={"i2s_layout": "Q"})
    raises(TypeError, "kernels", BitNetInference, STORIES, kernel_params={"kernels": 5})


def test_arguments():
    "wrong settings are told; a prompt that does not fit changes nothing"
    with BitNetInference(STORIES, n_ctx=64) as model:
        want = say(model, max_tokens=20)
        for name, value in (("temperature", float("nan")), ("top_p", -1), ("min_p", 2), ("repeat_penalty", 0),
                            ("seed", -2), ("seed", 2**64), ("max_tokens", float("inf")), ("repeat_last_n", -2)):
            raises(ValueError, name, say, model, **{name: value})
        for name, value in (("temperature", "hot"), ("max_tokens", True), ("prompt", 5), ("prompt", b"x")):
            raises(TypeError, name, say, model, **{name: value})
        raises(TypeError, "nonsense", say, model, nonsense=1)
        why = raises(BitNetError, "has [0-9]+ tokens, and the context holds 64", say, model, prompt="tell me " * 100)
        same(why.code, -9)
        same(say(model, max_tokens=20), want)
        same(say(model, max_tokens=None), say(model, max_tokens=-1))  # both until the context is full
        assert len(model._sessions) == 1


def test_closed():
    "a closed model says so, to texts under way and to other threads; closing twice is nothing"
    with BitNetInference(STORIES) as model:
        stream = model.generate_stream(PROMPT)
        next(stream)
    raises(BitNetError, "closed", next, stream)
    raises(BitNetError, "closed", say, model)
    asyncio.run(model.close())
    del stream
    model, ends = BitNetInference(STORIES), []

    def work():
        try:
            while True:
                say(model)
        except BitNetError as why:
            ends.append(str(why))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    asyncio.run(model.close())
    for thread in threads:
        thread.join(30)
    same(ends, ["the model is closed"] * 4)


# ------------------------------------------------------------------------------------------- threads and memory


def test_client():
    "the calls of a client that runs in an event loop, keyword by keyword"
    async def client():
        model = await asyncio.to_thread(lambda: BitNetInference(
            model_path=STORIES, quant_type="i2_s", use_pretuned=True, quant_embd=False, n_ctx=2048, n_threads=8,
            n_batch=2, n_gpu_layers=0, main_gpu=0, low_vram=False, use_mmap=True, use_mlock=False, kernel_params={},
            verbose=False))
        how = {"prompt": "Hello!", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0.7,
               "top_p": 0.9, "top_k": 40, "max_tokens": 30, "stop": []}
        answer = await asyncio.to_thread(lambda: model.generate(**how))
        stream = await asyncio.to_thread(lambda: model.generate_stream(**how))
        text = "".join(chunk.get("text", "") for chunk in stream)
        await model.close()
        return answer, text
    answer, text = asyncio.run(client())
    assert isinstance(answer["text"], str) and answer["text"] and text, (answer, text)


def test_threads():
    "threads that share a model each get the text they would get alone"
    prompts = [f"{PROMPT} there was a {animal}" for animal in ("fox", "robin", "seal", "bear", "cat", "dog")]
    with BitNetInference(STORIES) as model:
        want = [say(model, prompt=prompt, seed=1, temperature=0.8) for prompt in prompts]
        assert len(set(want)) == len(want)
        for _ in range(5):
            got = [None] * len(prompts)

            def work(i):
                got[i] = say(model, prompt=prompts[i], seed=1, temperature=0.8)
            threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            same(got, want)
        streams = [model.generate_stream(p, seed=1, temperature=0.8, max_tokens=60) for p in prompts]
        texts = [""] * len(streams)
        for _ in range(60):                              # in turn, on one thread
            for i, stream in enumerate(streams):
                texts[i] += next(stream, {"text": ""})["text"]
        same(texts, want)


def test_fair():
    "a short text is not kept waiting by a long one"
    synth("long.gguf", "--seed", "6", "--ctx", "4096")
    with BitNetInference("long.gguf", kernel_params={"kernels": "scalar"}, n_threads=1) as model:
        ended = []

        def work():
            stream = model.generate_stream(PROMPT, max_tokens=600, temperature=2, seed=1)
            ended.append(sum(1 for _ in stream))
        thread = threading.Thread(target=work)
        thread.start()
        while not model._waiting:
            time.sleep(0.001)
        for i in range(5):
            say(model, max_tokens=5, seed=i)
        early = not ended
        thread.join(100)
        assert ended and early, "the long text was at its end before the short ones"


def test_left():
    "streams that nobody reads to their end, or at all, keep no session"
    with BitNetInference(STORIES) as model:
        want = say(model)
        for i in range(20):
            stream = model.generate_stream(PROMPT, max_tokens=100, stop=["x" * 200])
            if i % 2:
                next(stream)
            if i % 4 == 3:
                stream.close()
                same(list(stream), [])
            del stream
            same(say(model), want)
        assert len(model._sessions) <= 2, len(model._sessions)


def test_prefix():
    "a text that begins like the last one is not evaluated again, and stays the same"
    long = "One day the fox met a robin. The robin had a kite. " * 12
    with BitNetInference(STORIES) as model:
        fresh = say(model, prompt=long + "The kite", max_tokens=10)
    with BitNetInference(STORIES) as model:
        say(model, prompt=long, max_tokens=10)
        tokens = model._tokenize((long + "The kite").encode(), bitnet.TOKENIZE_BOS)
        assert model._common(model._left[0][0], tokens) > 100
        same(say(model, prompt=long + "The kite", max_tokens=10), fresh)
        same(say(model, prompt=long + "The kite", max_tokens=10), fresh)
        assert len(model._sessions) == 1


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory():
    "a model that nothing refers to is gone at once, and its memory with it"
    gc.disable()
    try:
        for _ in range(3):
            model = BitNetInference(STORIES)
            say(model, max_tokens=2)
            gone = weakref.ref(model)
            del model
            assert gone() is None, "still there"
        if not os.path.exists("/proc/self/statm"):
            return "no /proc/self/statm"
        before = resident()
        for _ in range(30):                              # each takes 2 MB
            say(BitNetInference(STORIES), max_tokens=2)
        assert resident() - before < 16 << 20, f"{resident() - before} bytes more"
    finally:
        gc.enable()
    model = BitNetInference(STORIES)                     # a circle, in which a stream is in the middle of its text
    model.stream = model.generate_stream(PROMPT)
    next(model.stream)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None, "a circle is still there"


def test_interrupt():
    "Ctrl-C ends a generation, and the model can be used again"
    synth("long.gguf", "--seed", "6", "--ctx", "4096")
    with BitNetInference("long.gguf", kernel_params={"kernels": "scalar"}, n_threads=1) as model:
        want = say(model, max_tokens=5)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.time()
        try:
            say(model, max_tokens=-1, temperature=2, seed=1)
            timer.cancel()
            return "the text was at its end before"
        except KeyboardInterrupt:
            assert time.time() - started < 5
        same(say(model, max_tokens=5), want)


def test_verbose():
    "the log is on stderr, if verbose or BITNET_VERBOSE=1"
    code = f"import bitnet; bitnet.BitNetInference({STORIES!r}%s).generate('a', max_tokens=1)"
    library = {"BITNET_LIBRARY": os.environ["BITNET_LIBRARY"]}
    same(run_copy(code % "", **library), "")
    same(run_copy(code % ", verbose=False", BITNET_VERBOSE="1", **library), "")
    same(run_copy(code % "", BITNET_VERBOSE="0", **library), "")
    assert run_copy(code % "", BITNET_VERBOSE="1", **library).startswith("bitnet: ")
    assert run_copy(code % ", verbose=True", **library).startswith("bitnet: ")


def test_readme():
    "the example of README.md runs, and prints two texts"
    with open(os.path.join(ROOT, "README.md")) as f:
        code = re.search(r"```python\n(.*?)```", f.read(), re.S).group(1)
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": os.path.dirname(bitnet.__file__)}, check=True)
    lines = done.stdout.decode().split("\n", 1)
    assert len(lines[0]) > 50 and "fox" in lines[1], lines


def main():
    counts = {"ok": 0, "not ok": 0, "skip": 0}
    for name, function in list(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            reason = function()
            outcome = "skip" if reason else "ok"
            print(f"{outcome} - {function.__doc__}" + (f": {reason}" if reason else ""), flush=True)
        except Exception:
            outcome = "not ok"
            print(f"not ok - {function.__doc__}\n" + "".join("    " + line + "\n" for line in
                  traceback.format_exc().splitlines()), flush=True)
        counts[outcome] += 1
    print(f"python_module: {counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped")
    return counts["not ok"] > 0


if __name__ == "__main__":
    sys.exit(main())
